//! Watches that exist, made by whoever: takes what the user named and the
//! collector's list, produces the watches that are meant.

use jiff::Timestamp;
use netio::v1;

use crate::{failure::Failure, target, text};

/// What the user named.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Existing {
    /// Watches by their ids.
    pub(crate) watch_ids: Vec<String>,
    /// Those that have the selector of such a target.
    pub(crate) targets: Vec<v1::Target>,
    /// Shown from then on, out of the history; none: from now on.
    pub(crate) since: Option<Timestamp>,
}

/// What is meant by it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// The watches, each once.
    pub(super) watches: Vec<v1::Watch>,
    /// The ids of those that only the history may have.
    pub(super) past: Vec<String>,
    /// What there is to say about them.
    pub(super) notes: Vec<String>,
}

impl Existing {
    /// Finds all that was named among the watches of the collector.
    pub(super) fn find(&self, list: Vec<v1::Watch>) -> Result<Found, Failure> {
        let mut found = Found::default();
        for watch_id in &self.watch_ids {
            let watch = list.iter().find(|watch| watch.watch_id == *watch_id);
            match watch {
                Some(watch) => found.add(watch),
                None if self.since.is_none() => return Err(unknown(watch_id)),
                None if !found.past.contains(watch_id) => found.past.push(watch_id.clone()),
                None => {}
            }
        }
        for target in &self.targets {
            let has_selector = |watch: &&v1::Watch| {
                let other = watch.target.as_ref();
                other.is_some_and(|other| other.selector == target.selector)
            };
            let watches: Vec<&v1::Watch> = list.iter().filter(has_selector).collect();
            found.notes.extend(several(target, &watches));
            if watches.is_empty() {
                return Err(never_watched(target));
            }
            for watch in watches {
                found.add(watch);
            }
        }
        Ok(found)
    }
}

impl Found {
    fn add(&mut self, watch: &v1::Watch) {
        let is_it = |other: &v1::Watch| other.watch_id == watch.watch_id;
        if !self.watches.iter().any(is_it) {
            self.watches.push(watch.clone());
        }
    }
}

/// Each has a line of its own, which looks like the other's.
fn several(target: &v1::Target, watches: &[&v1::Watch]) -> Option<String> {
    let named = watches.iter().map(|watch| {
        let (id, owner) = (text::line(&watch.watch_id), text::line(&watch.owner));
        format!("{id} of {owner}")
    });
    let named: Vec<String> = named.collect();
    (named.len() > 1).then(|| {
        format!(
            "{} has {} watches, each with lines of its own: {} (--watch-id chooses)",
            target::describe(target),
            named.len(),
            named.join(", ")
        )
    })
}

fn never_watched(target: &v1::Target) -> Failure {
    Failure::new(
        format!(
            "nothing watches {}: the history holds only what was watched then",
            target::describe(target)
        ),
        "netio-client list shows the watches that there are, and --watch-id names one, also \
         one that has ended; leave out --since to watch from now on",
    )
}

/// Of an id that is in no list, and in no history that was asked for.
pub(super) fn unknown(watch_id: &str) -> Failure {
    Failure::new(
        format!("there is no watch {}", text::line(watch_id)),
        "netio-client list shows the watches that there are; one that has ended is shown with \
         a --since that reaches back to it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(watch_id: &str, target: v1::Target) -> v1::Watch {
        v1::Watch {
            watch_id: watch_id.to_owned(),
            target: Some(target),
            owner: "uid:0".to_owned(),
            ..v1::Watch::default()
        }
    }

    fn list() -> Vec<v1::Watch> {
        let port = v1::Target::port(3306);
        vec![
            watch("w-1", port.clone()),
            watch("w-2", v1::Target::pid(7)),
            watch("w-3", port.following_children(true)),
        ]
    }

    fn long_ago() -> Option<Timestamp> {
        Some(Timestamp::UNIX_EPOCH)
    }

    fn ids(found: &Found) -> Vec<&str> {
        let watches = found.watches.iter();
        watches.map(|watch| watch.watch_id.as_str()).collect()
    }

    #[test]
    fn by_selector_whoever_made_them_and_whether_or_not_they_follow_children() {
        let existing = Existing {
            targets: vec![v1::Target::pid(7), v1::Target::port(3306)],
            ..Existing::default()
        };
        let found = existing.find(list()).unwrap();
        assert_eq!(ids(&found), ["w-2", "w-1", "w-3"]);
        assert_eq!(found.notes.len(), 1);
        let note =
            "port 3306 has 2 watches, each with lines of its own: w-1 of uid:0, w-3 of uid:0";
        assert!(found.notes[0].starts_with(note), "{:?}", found.notes);
    }

    #[test]
    fn what_nothing_watches_has_no_history() {
        let existing = Existing {
            targets: vec![v1::Target::pid(7), v1::Target::port(1)],
            since: long_ago(),
            ..Existing::default()
        };
        let said = existing.find(list()).unwrap_err().to_string();
        assert!(
            said.starts_with("nothing watches port 1: the history holds only what was watched"),
            "{said}"
        );
    }

    #[test]
    fn by_id_each_once_and_one_that_has_ended_in_the_history_alone() {
        let ids_given = ["w-3", "w-9", "w-1", "w-3", "w-9"];
        let mut existing = Existing {
            watch_ids: ids_given.map(str::to_owned).to_vec(),
            since: long_ago(),
            ..Existing::default()
        };
        let found = existing.find(list()).unwrap();
        assert_eq!(ids(&found), ["w-3", "w-1"]);
        assert_eq!(found.past, ["w-9"]);

        existing.since = None;
        let said = existing.find(list()).unwrap_err().to_string();
        assert!(said.starts_with("there is no watch w-9\n"), "{said}");
    }

    #[test]
    fn ids_from_the_command_line_and_owners_cannot_steer_the_terminal() {
        assert!(!unknown("\u{1b}[2J").to_string().contains('\u{1b}'));
        let mut list = list();
        list[0].owner = "\u{1b}[2J".to_owned();
        let existing = Existing {
            targets: vec![v1::Target::port(3306)],
            ..Existing::default()
        };
        let notes = existing.find(list).unwrap().notes;
        assert!(!notes[0].contains('\u{1b}'), "{notes:?}");
    }
}
