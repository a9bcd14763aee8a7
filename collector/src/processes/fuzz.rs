//! Selectors, and what the kernel tells of cgroups, as fuzzing gives them: see
//! `fuzzing::selector`.
#![forbid(unsafe_code)]

use netio::v1::target::Selector as Wire;

use super::{Selector, cgroup};

/// Takes any text, and panics where what is made of it breaks a promise.
pub(crate) fn fuzz_selector(text: &str) {
    let (written, kernel) = text.split_once('\n').unwrap_or((text, ""));
    let owned = || written.to_owned();
    for wire in [
        Wire::Name(owned()),
        Wire::Unit(owned()),
        Wire::Container(owned()),
    ] {
        match Selector::parse(&wire) {
            Ok(selector) => assert_is_valid(&selector),
            Err(error) => assert!(error.to_string().len() < 1024, "{error}"),
        }
    }
    if let Ok(selector) = Selector::cgroup_as_mounted(written, kernel) {
        assert_is_valid(&selector);
        // Without mounts, the one form is its own.
        let Selector::Cgroup(path) = &selector else {
            return;
        };
        let again = Selector::cgroup_as_mounted(path, "");
        assert!(again.is_ok_and(|again| again == selector), "{path:?}");
        if let Some(of_process) = cgroup::cgroup_path(kernel) {
            cgroup::lies_in(&of_process, path);
        }
    }
    if let Ok(number) = written.parse() {
        let _ = Selector::parse(&Wire::Pid(number));
        let _ = Selector::parse(&Wire::Port(number));
    }
    cgroup::is_of_unit(kernel, written);
    cgroup::unit(kernel);
    let id = cgroup::container_id(kernel);
    assert!(id.is_none_or(|id| id.len() == cgroup::ID_LENGTH));
    for id in cgroup::container_ids(kernel) {
        cgroup::begins_with(id, written);
    }
}

fn assert_is_valid(selector: &Selector) {
    assert!(selector.is_rule());
    let shown = selector.to_string();
    assert!(!shown.contains(char::is_control), "{shown:?}");
}
