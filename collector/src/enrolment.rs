//! Lets processes into watches.
//!
//! Takes a wish for a watch and makes it, with the processes that match and their
//! descendants; takes processes that match later, and adds them. Promises: when a
//! watch is answered, everything that it matched at the call is counted; a
//! refused wish leaves nothing behind.
//!
//! Descendants are found by looking, and looking takes a while in which further
//! children are born. But a process that is in the watch already has its children
//! listed by the kernel; so one looks again until nobody new is found.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use netio::v1;
use tokio::{sync::oneshot, task::spawn_blocking};

use crate::{
    kernel::ProcessId,
    processes::{FindError, Found, Processes, Selector},
    sampler::{CommandError, Commands, Order},
    watches::{Follow, Past, Selection, WatchError, WatchId},
};

/// How often to look for descendants. Each look finds a generation at least.
const MAX_LOOKS: usize = 64;

/// A watch that is wished for.
pub(crate) struct Wish {
    pub(crate) target: v1::Target,
    pub(crate) selector: Selector,
    pub(crate) owner: String,
    /// Even if nothing matches yet.
    pub(crate) wait: bool,
    /// None: a standing watch.
    pub(crate) lease_ttl: Option<Duration>,
}

/// Why a watch was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Enrolment {
    pub(crate) processes: Arc<dyn Processes>,
    pub(crate) commands: Commands,
    /// Whether the kernel can follow children.
    pub(crate) follows_children: bool,
}

impl Enrolment {
    /// Makes a standing watch, in which processes are looked for later.
    pub(crate) async fn make_standing(
        &self,
        target: v1::Target,
        selector: Selector,
        owner: String,
    ) -> Result<WatchId, EnrolError> {
        let follow = self.follow(&target, &selector);
        let order = Order {
            target,
            selector,
            owner,
            follow,
            lease_ttl: None,
            wait: true,
            found: Vec::new(),
        };
        Ok(self.commands.watch(order).await?)
    }

    /// Makes a watch. It goes on being made if the caller goes away, and is then
    /// ended.
    pub(crate) async fn make(&self, wish: Wish) -> Result<v1::Watch, EnrolError> {
        let (reply, answer) = oneshot::channel();
        let enrolment = self.clone();
        tokio::spawn(async move {
            let owner = wish.owner.clone();
            if let Err(Ok(watch)) = reply.send(enrolment.watch(wish).await) {
                let selection = Selection::Id(watch.watch_id);
                let _ = enrolment.commands.unwatch(selection, owner).await;
            }
        });
        let answer = answer.await;
        answer.unwrap_or(Err(EnrolError::Command(CommandError::ShuttingDown)))
    }

    async fn watch(&self, wish: Wish) -> Result<v1::Watch, EnrolError> {
        let Wish {
            target,
            selector,
            owner,
            wait,
            lease_ttl,
        } = wish;
        let found = self.matching(&selector).await?;
        if found.is_empty() && !wait {
            return Err(FindError::NoMatch(selector).into());
        }
        let follow = self.follow(&target, &selector);
        let roots = roots(&found, follow);
        let order = Order {
            target,
            selector,
            owner: owner.clone(),
            follow,
            lease_ttl,
            wait,
            found,
        };
        let id = self.commands.watch(order).await?;
        match self.finish(id, &owner, roots).await {
            Ok(watch) => Ok(watch),
            Err(error) => {
                let selection = Selection::Id(id.to_string());
                let _ = self.commands.unwatch(selection, owner).await;
                Err(error)
            }
        }
    }

    async fn finish(
        &self,
        id: WatchId,
        owner: &str,
        roots: BTreeSet<ProcessId>,
    ) -> Result<v1::Watch, EnrolError> {
        self.descendants(id, roots, Past::Refuse).await?;
        // Looking may have taken a part of its lease.
        let renewal = self.commands.renew(vec![id.to_string()], owner.to_owned());
        renewal.await?;
        let watch = self.commands.describe(id).await?;
        let mut described = self.describe(vec![watch]).await?;
        let gone = WatchError::NotFound {
            watch_id: id.to_string(),
        };
        Ok(described.pop().ok_or(CommandError::from(gone))?)
    }

    /// Adds processes that match a rule, with the descendants of those whose
    /// children the watch follows. `thorough`: looks for descendants of those, too,
    /// that are in the watch already.
    pub(crate) async fn join(
        &self,
        id: WatchId,
        follow: Follow,
        found: Vec<Found>,
        thorough: bool,
    ) -> Result<(), EnrolError> {
        let roots = roots(&found, follow);
        let joined = self.commands.join(id, found, false, Past::Share).await?;
        if joined > 0 || thorough {
            self.descendants(id, roots, Past::Share).await?;
        }
        Ok(())
    }

    async fn descendants(
        &self,
        id: WatchId,
        roots: BTreeSet<ProcessId>,
        past: Past,
    ) -> Result<(), EnrolError> {
        if roots.is_empty() {
            return Ok(());
        }
        for _ in 0..MAX_LOOKS {
            let (processes, of) = (Arc::clone(&self.processes), roots.clone());
            let found = blocking(move || processes.descendants(&of)).await?;
            if self.commands.join(id, found, true, past).await? == 0 {
                return Ok(());
            }
        }
        tracing::warn!(%id, "new descendants were found at each look: some may not be counted");
        Ok(())
    }

    /// Whose children a target means.
    pub(crate) fn follow(&self, target: &v1::Target, selector: &Selector) -> Follow {
        match (target.follow_children, selector) {
            // Where it was asked for, the watch is refused.
            _ if !self.follows_children => Follow::Never,
            (Some(true), _) => Follow::Always,
            (Some(false), _) => Follow::Never,
            (None, Selector::Pid(_) | Selector::Name(_) | Selector::Port(_)) => {
                Follow::IfForksPerConnection
            }
            (None, Selector::Cgroup(_) | Selector::Unit(_) | Selector::Container(_)) => {
                Follow::Always
            }
        }
    }

    /// The processes that match now.
    pub(crate) async fn matching(&self, selector: &Selector) -> Result<Vec<Found>, FindError> {
        let (processes, selector) = (Arc::clone(&self.processes), selector.clone());
        blocking(move || processes.matching(&selector)).await
    }

    /// What each of these processes is, where that was not read yet: a child
    /// that was listed by the kernel is known by pid and name only.
    pub(crate) async fn describe(
        &self,
        mut watches: Vec<v1::Watch>,
    ) -> Result<Vec<v1::Watch>, FindError> {
        let processes = Arc::clone(&self.processes);
        blocking(move || {
            let all = watches.iter_mut().flat_map(|watch| &mut watch.processes);
            for process in all {
                if let Some(told) = processes.describe(process.pid, process.start_time_ns) {
                    *process = told;
                }
            }
            Ok(watches)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    find: impl FnOnce() -> Result<T, FindError> + Send + 'static,
) -> Result<T, FindError> {
    spawn_blocking(find).await.unwrap_or_else(|error| {
        Err(FindError::ProcUnreadable {
            root: "/proc".into(),
            source: io::Error::other(error),
        })
    })
}

/// The processes whose children the watch follows.
fn roots(found: &[Found], follow: Follow) -> BTreeSet<ProcessId> {
    let followed = found.iter().filter(|found| follow.applies_to(found));
    followed.map(Found::id).collect()
}
