//! What the user wants to watch: takes targets, produces one request for each,
//! in the order given and none twice.

use std::time::Duration;

use netio::v1::{self, watch_request::Life};

use crate::target;

/// Targets that are to be watched.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    targets: Vec<v1::Target>,
    wait: bool,
}

impl Wanted {
    /// These targets; with `wait`, rules among them need match nothing yet.
    pub(crate) fn new(targets: impl IntoIterator<Item = v1::Target>, wait: bool) -> Self {
        let mut distinct = Vec::new();
        for target in targets {
            if !distinct.contains(&target) {
                distinct.push(target);
            }
        }
        Self {
            targets: distinct,
            wait,
        }
    }

    /// What to ask for, each with the target that it is for.
    pub(crate) fn requests(
        &self,
        life: Life,
    ) -> impl Iterator<Item = (&v1::Target, v1::WatchRequest)> {
        self.targets.iter().map(move |target| {
            let request = v1::WatchRequest {
                // There is no waiting for a pid: it may become anybody's.
                wait: self.wait && target::is_rule(target),
                target: Some(target.clone()),
                life: Some(life),
            };
            (target, request)
        })
    }
}

/// What to ask for when a watch that there was is to be made anew: that nothing
/// matches a rule at the moment is no reason not to.
pub(crate) fn anew(target: &v1::Target, life: Life) -> v1::WatchRequest {
    v1::WatchRequest {
        wait: target::is_rule(target),
        target: Some(target.clone()),
        life: Some(life),
    }
}

/// A life that ends unless it is renewed within `ttl`.
pub(crate) fn lease(ttl: Duration) -> Life {
    // Only one of centuries would not fit.
    Life::LeaseTtl(prost_types::Duration::try_from(ttl).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_in_the_order_given_and_waiting_only_for_rules() {
        let targets = [
            v1::Target::pid(7),
            v1::Target::port(3306),
            v1::Target::pid(7),
            v1::Target::name("db"),
        ];
        let wanted = Wanted::new(targets, true);
        let requests: Vec<_> = wanted.requests(Life::Standing(true)).collect();
        let told: Vec<_> = requests
            .iter()
            .map(|(target, request)| (target::describe(target), request.wait))
            .collect();
        assert_eq!(
            told,
            [
                ("pid 7".to_owned(), false),
                ("port 3306".to_owned(), true),
                ("name db".to_owned(), true)
            ]
        );
        for (target, request) in requests {
            assert_eq!(request.target.as_ref(), Some(target));
            assert_eq!(request.life, Some(Life::Standing(true)));
        }
    }

    #[test]
    fn nothing_waits_unless_it_is_asked_to() {
        let wanted = Wanted::new([v1::Target::port(1)], false);
        let (_, request) = wanted
            .requests(lease(Duration::from_millis(2500)))
            .next()
            .unwrap();
        assert!(!request.wait);
        let ttl = prost_types::Duration {
            seconds: 2,
            nanos: 500_000_000,
        };
        assert_eq!(request.life, Some(Life::LeaseTtl(ttl)));
    }
}
