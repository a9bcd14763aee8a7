//! Standing watches in the configuration file.
//!
//! Takes a `[[watch]]` table, produces a target; exactly one selector must be
//! given, and no pid, which would mean another process after a restart.
#![forbid(unsafe_code)]

use netio::v1::{Target, target::Selector};

use crate::check_rule;

/// A `[[watch]]` table.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GivenWatch {
    name: Option<String>,
    port: Option<u32>,
    cgroup: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    follow_children: Option<bool>,
}

impl GivenWatch {
    /// The target that it names, or what is wrong with it.
    pub(super) fn target(&self) -> Result<Target, String> {
        let given = self.clone();
        let mut selectors = [
            given.name.map(Selector::Name),
            given.port.map(Selector::Port),
            given.cgroup.map(Selector::Cgroup),
            given.unit.map(Selector::Unit),
            given.container.map(Selector::Container),
        ]
        .into_iter()
        .flatten();
        let target = match (selectors.next(), selectors.next()) {
            (Some(selector), None) => Target {
                follow_children: self.follow_children,
                ..Target::new(selector)
            },
            _ => {
                return Err(
                    "must give exactly one of name, port, cgroup, unit and container".to_owned(),
                );
            }
        };
        check_rule(&target)?;
        Ok(target)
    }
}
