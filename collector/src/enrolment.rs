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
//!
//! Of requests that look, [`MAX_SCANS`] have their turn at a time; others wait for
//! theirs, as long as their callers do. Who has a turn keeps it for all its looks: if
//! each look waited anew, a crowd would get on together, and be late together. And the
//! sampler gets no more than [`MAX_JOINS`]
//! processes at once, so that a tick can come between.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, io, mem, sync::Arc, time::Duration};

use netio::v1;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::spawn_blocking,
};
use tracing::{debug, warn};

use crate::{
    kernel::ProcessId,
    processes::{Ancestry, FindError, Found, Processes, Search, Selector},
    sampler::{CommandError, Commands, Order},
    watches::{Follow, Past, Rule, Selection, WatchError, WatchId},
};

#[cfg(test)]
mod tests;

/// How often to look for descendants. Each look finds a generation at least.
const MAX_LOOKS: usize = 64;
/// Requests that look at once: each look reads some files of every process on the
/// host.
pub(crate) const MAX_SCANS: usize = 2;
/// Processes that the sampler lets in at once. In some modes each one's sockets are
/// noted first, which takes the longer the more it has.
const MAX_JOINS: usize = 64;

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
    processes: Arc<dyn Processes>,
    commands: Commands,
    /// Whether the kernel can follow children.
    follows_children: bool,
    scans: Arc<Semaphore>,
}

/// Leave to look. A look that is under way keeps it, even if nobody waits for it any
/// more.
#[derive(Clone)]
struct Turn(
    #[expect(dead_code, reason = "that it lives is what counts")] Arc<Option<OwnedSemaphorePermit>>,
);

/// A watch that its caller has not taken yet: it is ended, unless that happens.
struct Unclaimed {
    watch: Option<v1::Watch>,
    owner: String,
    commands: Commands,
}

impl Unclaimed {
    fn claim(mut self) -> v1::Watch {
        self.watch.take().unwrap_or_default()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        let Some(watch) = self.watch.take() else {
            return;
        };
        let (commands, owner) = (self.commands.clone(), mem::take(&mut self.owner));
        // Without a runtime there is no sampler any more either.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let selection = Selection::Id(watch.watch_id);
            // It may have ended by itself.
            let _ = commands.unwatch(selection, owner).await;
        });
    }
}

impl Enrolment {
    pub(crate) fn new(
        processes: Arc<dyn Processes>,
        commands: Commands,
        follows_children: bool,
    ) -> Self {
        Self {
            processes,
            commands,
            follows_children,
            scans: Arc::new(Semaphore::new(MAX_SCANS)),
        }
    }

    /// For one who looks by itself, a look after the other: it does not wait for
    /// those of requests, nor they for its.
    pub(crate) fn apart(&self) -> Self {
        Self {
            scans: Arc::new(Semaphore::new(1)),
            ..self.clone()
        }
    }

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

    /// Makes a watch. Once processes were found, it goes on being made if the caller
    /// goes away, and is then ended.
    pub(crate) async fn make(&self, wish: Wish) -> Result<v1::Watch, EnrolError> {
        // Before anything is made: who waits its turn here can still go away.
        let selector = wish.selector.clone();
        let turn = self.turn().await;
        let look = move |it: &dyn Processes| it.matching(&selector);
        let found = self.look_in(turn.clone(), look).await?;
        let (reply, answer) = oneshot::channel();
        let enrolment = self.clone();
        tokio::spawn(async move {
            let owner = wish.owner.clone();
            let made = enrolment.watch(wish, found, turn).await;
            // It may go unheard even after it was sent.
            let _ = reply.send(made.map(|watch| Unclaimed {
                watch: Some(watch),
                owner,
                commands: enrolment.commands,
            }));
        });
        let made = answer.await;
        made.unwrap_or(Err(CommandError::ShuttingDown.into()))
            .map(Unclaimed::claim)
    }

    async fn watch(
        &self,
        wish: Wish,
        mut found: Vec<Found>,
        turn: Turn,
    ) -> Result<v1::Watch, EnrolError> {
        let Wish {
            target,
            selector,
            owner,
            wait,
            lease_ttl,
        } = wish;
        if found.is_empty() && !wait {
            return Err(FindError::NoMatch(selector).into());
        }
        let follow = self.follow(&target, &selector);
        let roots = roots(&found, follow);
        let rest = found.split_off(found.len().min(MAX_JOINS));
        let order = Order {
            target,
            selector: selector.clone(),
            owner: owner.clone(),
            follow,
            lease_ttl,
            wait: wait || !rest.is_empty(),
            found,
        };
        let must_have_some = (!wait && !rest.is_empty()).then_some(selector);
        let id = self.commands.watch(order).await?;
        let let_in = self.let_in_the_rest(id, &owner, rest, roots, turn);
        let made = match let_in.await {
            Ok(()) => self.made(id, must_have_some).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(watch) => Ok(watch),
            Err(error) => {
                let selection = Selection::Id(id.to_string());
                let _ = self.commands.unwatch(selection, owner).await;
                Err(error)
            }
        }
    }

    /// Lets in the rest of the processes and all descendants, or fails. However long
    /// that takes, the lease begins after it.
    async fn let_in_the_rest(
        &self,
        id: WatchId,
        owner: &str,
        rest: Vec<Found>,
        roots: BTreeSet<ProcessId>,
        turn: Turn,
    ) -> Result<(), EnrolError> {
        let ids = vec![id.to_string()];
        let holds = self.commands.hold(ids.clone(), owner.to_owned(), false);
        let holds = holds.await?;
        self.join_all(id, rest, false, Past::Refuse).await?;
        self.descendants(id, roots, Past::Refuse, turn).await?;
        drop(holds);
        Ok(self.commands.renew(ids, owner.to_owned()).await?)
    }

    /// The watch as it is answered.
    async fn made(
        &self,
        id: WatchId,
        must_have_some: Option<Selector>,
    ) -> Result<v1::Watch, EnrolError> {
        let watch = self.commands.describe(id).await?;
        if let Some(selector) = must_have_some.filter(|_| watch.process_count == 0) {
            return Err(FindError::NoMatch(selector).into());
        }
        let mut described = self.describe(vec![watch]).await?;
        let gone = WatchError::NotFound {
            watch_id: id.to_string(),
        };
        Ok(described.pop().ok_or(CommandError::from(gone))?)
    }

    /// Adds a process that matches a rule, with its descendants if the watch follows
    /// its children.
    pub(crate) async fn join(&self, rule: &Rule, found: Found) -> Result<(), EnrolError> {
        let roots = roots(std::slice::from_ref(&found), rule.follow);
        let found = vec![found];
        if self.join_all(rule.id, found, false, Past::Share).await? > 0 {
            let turn = self.turn().await;
            self.descendants(rule.id, roots, Past::Share, turn).await?;
        }
        Ok(())
    }

    /// Looks for these rules among all processes, and adds what is not in their watches
    /// yet, with descendants. `thorough`: also the descendants that are lacking of
    /// processes that are in them. Processes are looked at once for all rules, and
    /// once more for descendants until nobody new is found. What fails for one rule
    /// is logged, and the others go on.
    pub(crate) async fn look_for(&self, rules: &[Rule], thorough: bool) -> Result<(), EnrolError> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut members = Vec::new();
        for rule in rules {
            members.push(self.commands.members(rule.id).await?);
        }
        let searches: Vec<Search> = rules
            .iter()
            .zip(&members)
            .map(|(rule, members)| Search {
                rule: rule.selector.clone(),
                known: members.iter().map(|(process, _)| *process).collect(),
            })
            .collect();
        let turn = self.turn().await;
        let look = move |it: &dyn Processes| it.search(&searches);
        let found = self.look_in(turn.clone(), look).await?;
        let mut following = Vec::new();
        for ((rule, members), found) in rules.iter().zip(members).zip(found) {
            let known = members.into_iter().filter(|(_, follows)| *follows);
            let known: BTreeSet<_> = known.map(|(process, _)| process).collect();
            let mut ancestry = Ancestry::default();
            if thorough {
                ancestry.roots = known.clone();
            }
            match found {
                Ok(found) => {
                    let roots = roots(&found, rule.follow);
                    let joined = self.join_all(rule.id, found, false, Past::Share).await;
                    match joined {
                        Ok(0) => {}
                        Ok(_) => ancestry.roots.extend(roots),
                        Err(error) => {
                            not_counted(rule.id, &error);
                            continue;
                        }
                    }
                }
                Err(error) => warn!(id = %rule.id, %error, "cannot look for processes"),
            }
            ancestry.known = known;
            following.push((rule.id, ancestry));
        }
        self.descend(following, Past::Share, turn).await
    }

    async fn descendants(
        &self,
        id: WatchId,
        roots: BTreeSet<ProcessId>,
        past: Past,
        turn: Turn,
    ) -> Result<(), EnrolError> {
        let ancestry = Ancestry {
            roots,
            ..Ancestry::default()
        };
        self.descend(vec![(id, ancestry)], past, turn).await
    }

    /// Adds descendants to watches. Where processes are not refused, what fails for
    /// one watch is logged, and the others go on.
    async fn descend(
        &self,
        mut following: Vec<(WatchId, Ancestry)>,
        past: Past,
        turn: Turn,
    ) -> Result<(), EnrolError> {
        for _ in 0..MAX_LOOKS {
            following.retain(|(_, of)| !of.roots.is_empty());
            if following.is_empty() {
                return Ok(());
            }
            let of: Vec<Ancestry> = following.iter().map(|(_, of)| of.clone()).collect();
            let look = move |it: &dyn Processes| it.descendants(&of);
            let found = self.look_in(turn.clone(), look).await?;
            let mut again = Vec::new();
            for ((id, mut of), found) in following.into_iter().zip(found) {
                of.known.extend(found.iter().map(Found::id));
                match self.join_all(id, found, true, past).await {
                    Ok(0) => {}
                    Ok(_) => again.push((id, of)),
                    Err(error) if past == Past::Share => not_counted(id, &error),
                    Err(error) => return Err(error.into()),
                }
            }
            following = again;
        }
        for (id, _) in following {
            warn!(%id, "new descendants were found at each look: some may not be counted");
        }
        Ok(())
    }

    /// Adds processes to a watch; how many of them are news.
    async fn join_all(
        &self,
        id: WatchId,
        mut found: Vec<Found>,
        descend: bool,
        past: Past,
    ) -> Result<usize, CommandError> {
        let mut joined = 0;
        while !found.is_empty() {
            let later = found.split_off(found.len().min(MAX_JOINS));
            let some = mem::replace(&mut found, later);
            joined += self.commands.join(id, some, descend, past).await?;
        }
        Ok(joined)
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

    /// What each of these processes is, where that was not read yet: a child
    /// that was listed by the kernel is known by pid and name only. Reads files of
    /// these alone, so it needs no turn.
    pub(crate) async fn describe(
        &self,
        mut watches: Vec<v1::Watch>,
    ) -> Result<Vec<v1::Watch>, FindError> {
        self.read(move |processes| {
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

    /// The database servers of the host.
    pub(crate) async fn databases(&self) -> Result<Vec<v1::Database>, FindError> {
        self.look(|processes| processes.databases()).await
    }

    /// Looks at processes, in a thread for blocking work, when it is its turn.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Processes) -> Result<T, FindError> + Send + 'static,
    ) -> Result<T, FindError> {
        self.look_in(self.turn().await, look).await
    }

    async fn turn(&self) -> Turn {
        // It is never closed.
        let permit = Arc::clone(&self.scans).acquire_owned().await.ok();
        Turn(Arc::new(permit))
    }

    async fn look_in<T: Send + 'static>(
        &self,
        turn: Turn,
        look: impl FnOnce(&dyn Processes) -> Result<T, FindError> + Send + 'static,
    ) -> Result<T, FindError> {
        let look = move |processes: &dyn Processes| {
            let _turn = turn;
            look(processes)
        };
        self.read(look).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Processes) -> Result<T, FindError> + Send + 'static,
    ) -> Result<T, FindError> {
        let processes = Arc::clone(&self.processes);
        let looked = spawn_blocking(move || read(&*processes));
        looked.await.unwrap_or_else(|error| {
            Err(FindError::ProcUnreadable {
                root: "/proc".into(),
                source: io::Error::other(error),
            })
        })
    }
}

/// Tells that processes are not counted which match.
pub(crate) fn not_counted(id: WatchId, error: &CommandError) {
    match error {
        // The watch has ended meanwhile, or everything has.
        CommandError::ShuttingDown | CommandError::Refused(WatchError::NotFound { .. }) => {
            debug!(%id, "its watch has ended");
        }
        error => warn!(%id, %error, "processes that match are not counted"),
    }
}

/// The processes whose children the watch follows.
fn roots(found: &[Found], follow: Follow) -> BTreeSet<ProcessId> {
    let followed = found.iter().filter(|found| follow.applies_to(found));
    followed.map(Found::id).collect()
}
