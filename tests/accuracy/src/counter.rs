//! What counts: the collector, or the tutorial's program.
//!
//! Both watch processes and give their totals since then, in the order of the
//! pids that were asked for.
#![forbid(unsafe_code)]

use anyhow::{Result, bail};
use netio_traffic::protocol::Bytes;

use crate::collector::{self, Collector};
use crate::report::{About, MissedEvents};
use crate::tutorial::{self, Tutorial};

pub(crate) enum Counter {
    Collector(Collector),
    Tutorial(Tutorial),
}

/// The processes of one pattern.
pub(crate) enum Watched {
    Collector(collector::Watched),
    Tutorial(tutorial::Watched),
}

impl Watched {
    /// Whether children were to be followed, and this mode cannot.
    pub(crate) fn children_refused(&self) -> bool {
        match self {
            Self::Collector(watched) => watched.children_refused,
            Self::Tutorial(_) => false,
        }
    }
}

/// Totals for each process, and events known to be missed since the watch; none
/// where nothing knows.
pub(crate) type Totals = (Vec<Bytes>, Option<MissedEvents>);

impl Counter {
    pub(crate) async fn about(&mut self) -> Result<About> {
        match self {
            Self::Collector(collector) => collector.about().await,
            Self::Tutorial(_) => Ok(Tutorial::about()),
        }
    }

    /// Watches processes, with their children if `children`. The tutorial's program
    /// knows none.
    pub(crate) async fn watch(&mut self, pids: &[u32], children: bool) -> Result<Watched> {
        match self {
            Self::Collector(collector) => collector
                .watch(pids, children)
                .await
                .map(Watched::Collector),
            Self::Tutorial(tutorial) => tutorial.watch(pids).map(Watched::Tutorial),
        }
    }

    /// Totals, with all that happened before this call.
    pub(crate) async fn totals(&mut self, watched: &Watched) -> Result<Totals> {
        match (self, watched) {
            (Self::Collector(collector), Watched::Collector(watched)) => {
                collector.totals(watched).await
            }
            (Self::Tutorial(tutorial), Watched::Tutorial(watched)) => {
                Ok((tutorial.totals(watched)?, None))
            }
            _ => bail!("what is watched belongs to another counter"),
        }
    }

    /// The last totals of processes that have exited.
    pub(crate) async fn totals_of_exited(&mut self, watched: Watched) -> Result<Totals> {
        match (self, watched) {
            (Self::Collector(collector), Watched::Collector(watched)) => {
                collector.totals_of_exited(watched).await
            }
            (Self::Tutorial(tutorial), Watched::Tutorial(watched)) => {
                let totals = tutorial.totals(&watched)?;
                tutorial.unwatch(&watched)?;
                Ok((totals, None))
            }
            _ => bail!("what is watched belongs to another counter"),
        }
    }

    pub(crate) async fn unwatch(&mut self, watched: Watched) -> Result<()> {
        match (self, watched) {
            (Self::Collector(collector), Watched::Collector(watched)) => {
                collector.unwatch(watched).await
            }
            (Self::Tutorial(tutorial), Watched::Tutorial(watched)) => tutorial.unwatch(&watched),
            _ => bail!("what is watched belongs to another counter"),
        }
    }

    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::Collector(collector) => collector.stop().await,
            Self::Tutorial(_) => Ok(()),
        }
    }
}
