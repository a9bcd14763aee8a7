//! docs/faults.md against the sources: it tells of every fault, and for each names the
//! tests that there are, no more and no fewer.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use support::{Result, file};

const PAGE: &str = "docs/faults.md";
/// Where sources are.
const SOURCES: [&str; 6] = ["client-cli", "collector", "fuzz", "src", "tests", "xtask"];
/// How a test of a fault is called: this, its number of two digits, and what is true.
const PREFIX: &str = "fault_";
/// Of a section, each the beginning of a line.
const PARTS: [&str; 4] = ["- Can happen: ", "- netio: ", "- Seen: ", "- Tests: "];
/// All but what is about sinks, which there are none of.
fn faults() -> impl Iterator<Item = u32> {
    (1..=27).filter(|number| *number != 25)
}

/// The number that a test's name begins with.
fn number(name: &str) -> Option<u32> {
    let (number, _) = name.strip_prefix(PREFIX)?.split_once('_')?;
    (number.len() == 2).then(|| number.parse().ok())?
}

/// The names of tests of faults in a file.
fn tests_in(text: &str, found: &mut BTreeSet<String>) {
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|it| it.split_once('(')) {
            if name.starts_with(PREFIX) {
                assert!(is_test, "{name} is no test");
                assert!(number(name).is_some(), "{name} has no number of two digits");
                found.insert(name.to_owned());
            }
            is_test = false;
        }
    }
}

fn tests_below(folder: &Path, found: &mut BTreeSet<String>) -> Result {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                tests_below(&path, found)?;
            }
        } else if path.extension().is_some_and(|it| it == "rs") {
            tests_in(&fs::read_to_string(&path)?, found);
        }
    }
    Ok(())
}

/// The sections of the page, by the number in their headings.
fn sections(page: &str) -> Result<BTreeMap<u32, &str>> {
    let mut sections = BTreeMap::new();
    for section in page.split("\n## ").skip(1) {
        let Some((number, _)) = section.split_once(". ") else {
            continue;
        };
        if let Ok(number) = number.parse() {
            assert!(sections.insert(number, section).is_none(), "{number} twice");
        }
    }
    Ok(sections)
}

/// The tests that a section names.
fn named(section: &str) -> BTreeSet<String> {
    let words = section.split('`').skip(1).step_by(2);
    let names = words.filter(|word| word.starts_with(PREFIX));
    names.map(str::to_owned).collect()
}

#[test]
fn every_fault_is_on_the_page_with_its_tests() -> Result {
    let mut tests = BTreeSet::new();
    for folder in SOURCES {
        tests_below(&file(folder), &mut tests)?;
    }
    let page = fs::read_to_string(file(PAGE))?;
    let sections = sections(&page)?;
    assert_eq!(
        sections.keys().copied().collect::<Vec<_>>(),
        faults().collect::<Vec<_>>(),
        "the sections of {PAGE}"
    );
    for (fault, section) in sections {
        for part in PARTS {
            let lines = section.lines();
            let count = lines.filter(|line| line.starts_with(part)).count();
            assert_eq!(count, 1, "{part:?} in section {fault} of {PAGE}");
        }
        let of_it = tests.iter().filter(|name| number(name) == Some(fault));
        let of_it: BTreeSet<String> = of_it.cloned().collect();
        assert!(!of_it.is_empty(), "no test of fault {fault}");
        assert_eq!(named(section), of_it, "section {fault} and the sources");
    }
    for name in &tests {
        let number = number(name).ok_or("no number")?;
        assert!(
            faults().any(|it| it == number),
            "{name} is of no fault that there is"
        );
    }
    Ok(())
}
