//! Shorthands for the messages that every client builds.

use crate::v1::{SubscribeRequest, Target, WatchRequest, target::Selector, watch_request::Life};

impl Target {
    /// What this selector names, with children followed where that is the
    /// default.
    #[must_use]
    pub fn new(selector: Selector) -> Self {
        Self {
            selector: Some(selector),
            follow_children: None,
        }
    }

    /// The process with this pid.
    #[must_use]
    pub fn pid(pid: u32) -> Self {
        Self::new(Selector::Pid(pid))
    }

    /// The processes with this name.
    #[must_use]
    pub fn name(name: impl Into<String>) -> Self {
        Self::new(Selector::Name(name.into()))
    }

    /// The processes that listen on this TCP port.
    #[must_use]
    pub fn port(port: u16) -> Self {
        Self::new(Selector::Port(port.into()))
    }

    /// The same with children followed, or not.
    #[must_use]
    pub fn following_children(self, follow: bool) -> Self {
        Self {
            follow_children: Some(follow),
            ..self
        }
    }
}

impl WatchRequest {
    /// A watch with a lease of the default length.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target: Some(target),
            wait: false,
            life: None,
        }
    }

    /// The same as a standing watch, which needs no process yet.
    #[must_use]
    pub fn standing(self) -> Self {
        Self {
            wait: true,
            life: Some(Life::Standing(true)),
            ..self
        }
    }
}

impl SubscribeRequest {
    /// Every tick's samples of these watches; none: of all.
    #[must_use]
    pub fn new(watch_ids: Vec<String>) -> Self {
        Self {
            watch_ids,
            ..Self::default()
        }
    }
}
