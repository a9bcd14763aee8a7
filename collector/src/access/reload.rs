//! Takes files into use again when they have changed.
//!
//! Looks at them every few seconds instead of asking the kernel for news: it works alike
//! for a write, a rename, and a link that is moved (as Kubernetes does it), on every file
//! system, and has nothing that could overflow or be lost. A change counts once it has
//! stood for one look, so that files which are still being written are left alone. One
//! that is of no use is told once, and what was in use before stays so.
#![forbid(unsafe_code)]

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{task::spawn_blocking, time::interval};
use tracing::{info, warn};

/// How often files are looked at: a change is in use after twice this at the latest.
pub(crate) const EVERY: Duration = Duration::from_secs(2);

/// Something that is made of files.
pub(crate) trait Reload: Send + Sync {
    /// The files.
    fn paths(&self) -> Vec<PathBuf>;

    /// Reads them; on an error, what was in use before stays so.
    fn reload(&self) -> Result<(), String>;
}

/// What tells that a file is another one, or has other contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    /// Modification and change, each in seconds and nanoseconds.
    times: [i64; 4],
}

/// None: it cannot be looked at.
fn mark(path: &Path) -> Option<Mark> {
    let it = fs::metadata(path).ok()?;
    Some(Mark {
        device: it.dev(),
        inode: it.ino(),
        size: it.size(),
        times: [it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()],
    })
}

type Marks = Vec<Option<Mark>>;

/// One thing and what its files looked like.
struct Followed {
    what: Arc<dyn Reload>,
    /// When it was last read; empty before the first time, so that what has changed
    /// between its making and the first look is noticed.
    tried: Marks,
    /// At the last look.
    seen: Marks,
    /// Why it was of no use when it was last read.
    failure: Option<String>,
}

impl Followed {
    fn new(what: Arc<dyn Reload>) -> Self {
        Self {
            what,
            tried: Marks::new(),
            seen: Marks::new(),
            failure: None,
        }
    }

    fn marks(&self) -> Marks {
        self.what.paths().iter().map(|it| mark(it)).collect()
    }

    /// What was read, and what came of it, if it is worth telling.
    fn look(&mut self) -> Option<(String, Result<(), String>)> {
        let marks = self.marks();
        let has_settled = marks == self.seen;
        self.seen.clone_from(&marks);
        // What failed may have been the reading, which no look at the files tells.
        let is_as_tried = marks == self.tried && self.failure.is_none();
        if is_as_tried || !has_settled {
            return None;
        }
        let is_first = std::mem::replace(&mut self.tried, marks).is_empty();
        let paths: Vec<_> = self.what.paths();
        let paths = paths.iter().map(|it| it.display().to_string());
        let paths = paths.collect::<Vec<_>>().join(", ");
        let outcome = self.what.reload();
        let before = std::mem::replace(&mut self.failure, outcome.clone().err());
        let is_news = match &outcome {
            Ok(()) => !is_first,
            Err(_) => self.failure != before,
        };
        is_news.then_some((paths, outcome))
    }
}

/// Goes on for ever.
pub(crate) async fn follow(all: Vec<Arc<dyn Reload>>, every: Duration) {
    let mut followed: Vec<_> = all.into_iter().map(Followed::new).collect();
    let mut looks = interval(every);
    loop {
        looks.tick().await;
        // A file system that hangs must hold up nothing else.
        let looked = spawn_blocking(move || {
            let told: Vec<_> = followed.iter_mut().filter_map(Followed::look).collect();
            (followed, told)
        });
        let told = match looked.await {
            Ok((back, told)) => {
                followed = back;
                told
            }
            Err(error) => {
                warn!(%error, "changed certificates and tokens are not noticed any more");
                return;
            }
        };
        for (paths, outcome) in told {
            match outcome {
                Ok(()) => info!("in use as changed: {paths}"),
                Err(why) => {
                    warn!("{why}; what was there before the change of {paths} stays in use");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, sync::Mutex};

    use super::*;

    /// A file whose contents must be numbers.
    struct Number {
        path: PathBuf,
        value: Mutex<u32>,
        reads: Mutex<u32>,
    }

    impl Reload for Number {
        fn paths(&self) -> Vec<PathBuf> {
            vec![self.path.clone()]
        }

        fn reload(&self) -> Result<(), String> {
            *self.reads.lock().unwrap() += 1;
            let text = fs::read_to_string(&self.path).map_err(|it| it.to_string())?;
            *self.value.lock().unwrap() = text.parse().map_err(|_| "no number".to_owned())?;
            Ok(())
        }
    }

    #[test]
    fn fault_18_writes_renames_and_moved_links_are_noticed_once_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("1"), "1").unwrap();
        symlink(at("1"), at("link")).unwrap();
        let number = Arc::new(Number {
            path: at("link"),
            value: Mutex::new(0),
            reads: Mutex::new(0),
        });
        let mut followed = Followed::new(number.clone());
        let mut look = || {
            followed.look();
            (*number.value.lock().unwrap(), *number.reads.lock().unwrap())
        };
        assert_eq!([look(), look(), look()], [(0, 0), (1, 1), (1, 1)]);
        // Written to.
        fs::write(at("1"), "12").unwrap();
        assert_eq!([look(), look(), look()], [(1, 1), (12, 2), (12, 2)]);
        // Another link, renamed over the old one.
        fs::write(at("2"), "2").unwrap();
        symlink(at("2"), at("new")).unwrap();
        fs::rename(at("new"), at("link")).unwrap();
        assert_eq!([look(), look()], [(12, 2), (2, 3)]);
        // Of no use, or gone: tried again, and what was in use stays.
        fs::write(at("2"), "half a").unwrap();
        assert_eq!([look(), look(), look()], [(2, 3), (2, 4), (2, 5)]);
        fs::remove_file(at("2")).unwrap();
        assert_eq!([look(), look()], [(2, 5), (2, 6)]);
        fs::write(at("2"), "7").unwrap();
        assert_eq!([look(), look(), look()], [(2, 6), (7, 7), (7, 7)]);
    }

    /// Cannot be read for a while, by no fault of the file.
    struct Fleeting(Mutex<Vec<Result<(), String>>>);

    impl Reload for Fleeting {
        fn paths(&self) -> Vec<PathBuf> {
            vec!["/dev/null".into()]
        }

        fn reload(&self) -> Result<(), String> {
            self.0.lock().unwrap().pop().unwrap()
        }
    }

    #[test]
    fn fault_18_what_could_not_be_read_is_tried_again_and_told_once() {
        let no = |why: &str| Err(why.to_owned());
        let outcomes = vec![
            Ok(()),
            no("no descriptor"),
            no("no memory"),
            no("no memory"),
        ];
        let mut followed = Followed::new(Arc::new(Fleeting(Mutex::new(outcomes))));
        let mut look = || followed.look().map(|it| it.1);
        assert_eq!(look(), None);
        assert_eq!(look(), Some(no("no memory")));
        assert_eq!(look(), None);
        assert_eq!(look(), Some(no("no descriptor")));
        assert_eq!(look(), Some(Ok(())));
        assert_eq!(look(), None, "nothing is read any more");
    }
}
