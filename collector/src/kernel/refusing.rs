//! A kernel without hooks: it lists nobody, and says why.
#![forbid(unsafe_code)]

use netio::v1;

use super::{
    AllowError, Birth, Changes, Counters, Kernel, KernelInfo, LifeNow, Mark, ProcessId, Slot,
};

/// Refuses every process with the error that `why` makes of its pid.
pub struct RefusingKernel<F> {
    info: KernelInfo,
    why: F,
}

impl<F: Fn(u32) -> AllowError> RefusingKernel<F> {
    /// A kernel that is described by `info`.
    pub fn new(info: KernelInfo, why: F) -> Self {
        Self { info, why }
    }
}

impl<F: Fn(u32) -> AllowError + Send> Kernel for RefusingKernel<F> {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn refusal(&self) -> Option<AllowError> {
        Some((self.why)(0)).filter(|why| matches!(why, AllowError::NotAttached(_)))
    }

    /// Hooks that are not there miss nothing.
    fn missed_events(&self) -> v1::MissedEvents {
        v1::MissedEvents {
            recursion: Some(0),
            kretprobe: Some(0),
        }
    }

    fn map_full(&self) -> v1::MapFull {
        v1::MapFull::default()
    }

    fn max_pid(&self) -> u32 {
        u32::MAX
    }

    fn take(&mut self) -> Option<Slot> {
        // So that a watch fails by `allow`, which says why.
        Some(Slot(1))
    }

    fn give(&mut self, _: Slot) {}

    fn allow(&mut self, process: ProcessId, _: Slot, _: Option<Slot>) -> Result<(), AllowError> {
        Err((self.why)(process.tgid))
    }

    fn share(&mut self, process: ProcessId, _: Slot) -> Result<(), AllowError> {
        Err((self.why)(process.tgid))
    }

    fn shares(&self, _: u32) -> Option<Slot> {
        None
    }

    fn deny(&mut self, _: u32, _: Slot) -> bool {
        false
    }

    fn unshare(&mut self, _: u32, _: Slot) {}

    fn take_born_into(&mut self, _: Slot) -> Option<Slot> {
        None
    }

    fn close_family(&mut self, _: Slot) {}

    fn set_family(&mut self, _: Slot, _: Option<Slot>) {}

    fn set_budget(&mut self, _: Slot, _: u32) {}

    fn sharers(&self, _: Slot) -> u32 {
        0
    }

    fn births(&mut self) -> Vec<Birth> {
        Vec::new()
    }

    fn life(&self, _: Slot) -> LifeNow {
        LifeNow::default()
    }

    fn name(&self, _: Slot) -> Vec<u8> {
        Vec::new()
    }

    fn read(&self, _: Slot) -> Counters {
        Counters::default()
    }

    fn changes(&mut self) -> Option<Changes> {
        None
    }

    fn wish_changes(&mut self, _: bool) {}

    fn set_base(&mut self, _: Slot, _: Counters) {}

    fn base(&self, _: Slot) -> Counters {
        Counters::default()
    }

    fn set_told(&mut self, _: Slot, _: Counters) {}

    fn told(&self, _: Slot) -> Counters {
        Counters::default()
    }

    fn set_mark(&mut self, _: Mark, _: u64) {}

    fn mark(&self, _: Mark) -> u64 {
        0
    }
}
