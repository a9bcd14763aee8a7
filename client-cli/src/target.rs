//! What a watch is for, in words: takes a target of the API, produces the text
//! that views show ("port 3306") and the options that ask for it
//! ("--port 3306"). Both are fit for a terminal.

use netio::v1::{self, target::Selector};

use crate::{shell, text};

/// What the target names, such as "port 3306".
pub(crate) fn describe(target: &v1::Target) -> String {
    match &target.selector {
        Some(selector) => {
            let (kind, value) = parts(selector);
            format!("{kind} {value}")
        }
        None => "nothing".to_owned(),
    }
}

/// The options of `watch` and `unwatch` that name the target, for a shell.
pub(crate) fn options(target: &v1::Target) -> Option<String> {
    let (kind, value) = parts(target.selector.as_ref()?);
    let follow = match target.follow_children {
        Some(true) => " --follow-children",
        Some(false) => " --no-follow-children",
        None => "",
    };
    Some(format!("--{kind} {}{follow}", shell::word(&value)))
}

/// Whether processes can come to match it later: all but a pid.
pub(crate) fn is_rule(target: &v1::Target) -> bool {
    !matches!(target.selector, None | Some(Selector::Pid(_)))
}

/// The kind of selector, called as its option is, and what it selects.
fn parts(selector: &Selector) -> (&'static str, String) {
    match selector {
        Selector::Pid(pid) => ("pid", pid.to_string()),
        Selector::Name(name) => ("name", text::long_line(name)),
        Selector::Port(port) => ("port", port.to_string()),
        Selector::Cgroup(path) => ("cgroup", text::long_line(path)),
        Selector::Unit(unit) => ("unit", text::line(unit)),
        Selector::Container(id) => ("container", text::line(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_in_words_and_as_an_option() {
        for (selector, words, option, rule) in [
            (Selector::Pid(7), "pid 7", "--pid 7", false),
            (Selector::Port(3306), "port 3306", "--port 3306", true),
            (
                Selector::Name("my db".to_owned()),
                "name my db",
                "--name 'my db'",
                true,
            ),
            (
                Selector::Cgroup("/a/b".to_owned()),
                "cgroup /a/b",
                "--cgroup /a/b",
                true,
            ),
            (
                Selector::Unit("m@1.service".to_owned()),
                "unit m@1.service",
                "--unit m@1.service",
                true,
            ),
            (
                Selector::Container("0123456789ab".to_owned()),
                "container 0123456789ab",
                "--container 0123456789ab",
                true,
            ),
        ] {
            let target = v1::Target::new(selector);
            assert_eq!(describe(&target), words);
            assert_eq!(options(&target).as_deref(), Some(option));
            assert_eq!(is_rule(&target), rule, "{words}");
        }
        assert_eq!(options(&v1::Target::default()), None);
    }

    #[test]
    fn children_are_told_where_they_were_asked_about() {
        let target = v1::Target::port(1).following_children(true);
        assert_eq!(
            options(&target).as_deref(),
            Some("--port 1 --follow-children")
        );
        let target = v1::Target::port(1).following_children(false);
        assert_eq!(
            options(&target).as_deref(),
            Some("--port 1 --no-follow-children")
        );
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(describe(&v1::Target::name("\u{1b}[2J")), "name \u{fffd}[2J");
    }
}
