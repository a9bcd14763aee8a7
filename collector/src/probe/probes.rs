//! One mode's programs as a [`Kernel`].
//!
//! Takes a mode, or what another collector has left pinned; produces a kernel
//! (`counting.rs`) whose hooks have counted a byte. Whatever is attached goes when it
//! is dropped, unless it is pinned.
#![forbid(unsafe_code)]

use std::{thread, time::Duration};

use netio::v1;
use netio_abi::{MARK_STATE, WISH_TGID};

use super::{
    AttachError, Keeping,
    attach::Attached,
    blind_spots,
    hand_over::hand_over,
    modes,
    object::{self, Object, Room},
    pins::Pins,
    preemption,
    self_check::{PATIENCE, Tried, self_check},
    sizes::Sizes,
    sys,
};
use crate::{
    btf::Btf,
    keep::{Hooks, Keep, State, Store},
    kernel::{Kernel as _, KernelInfo, Slot, Taken, figures::Figures},
};

mod counting;

/// Many times what a birth takes in the kernel.
const BIRTH: Duration = Duration::from_millis(100);

/// One mode's programs, attached.
pub(super) struct Probes {
    attached: Attached,
    pub(super) info: KernelInfo,
    keeping: Keeping,
    store: Option<Store>,
    /// What the collector of before wrote down.
    left: Option<State>,
    /// Slots that were in use when the hooks were taken over.
    taken: Vec<Taken>,
    /// Whether a byte over loopback can show that the hooks count.
    can_try: bool,
}

impl Probes {
    /// Attaches a mode, and pins it if that is wished for and possible.
    pub(super) fn attach(
        mode: v1::HookMode,
        btf: Option<&Btf>,
        slots: u32,
        keeping: &Keeping,
    ) -> Result<Self, AttachError> {
        let last = match keeping {
            Keeping::In(keep) => keep.generations().max().unwrap_or_default(),
            Keeping::Not(_) => 0,
        };
        let room = Room {
            sizes: Sizes::of_host(slots)?,
            generation: last + 1,
            allow_list: None,
        };
        Self::attach_in(mode, btf, &room, keeping)
    }

    fn attach_in(
        mode: v1::HookMode,
        btf: Option<&Btf>,
        room: &Room,
        keeping: &Keeping,
    ) -> Result<Self, AttachError> {
        let attach = || -> Result<(Attached, bool), AttachError> {
            let attached = modes::attach(mode, btf, room)?;
            let can_try = try_out(&attached)?;
            Ok((attached, can_try))
        };
        let (mut attached, mut can_try) = attach()?;
        let mut why = match keeping {
            Keeping::Not(why) => Some(why.clone()),
            Keeping::In(_) => attached.unpinnable().map(str::to_owned),
        };
        if let (Keeping::In(keep), None) = (keeping, &why) {
            let folder = keep.pins(room.generation);
            let pinned = Pins::new(folder.clone()).map_err(AttachError::from);
            if let Err(error) = pinned.and_then(|pins| attached.pin(pins)) {
                why = Some(format!(
                    "nothing can be pinned in {}: {error}",
                    folder.display()
                ));
                let _ = Pins::of(folder).remove();
                // Some of it has gone by that.
                drop(attached);
                (attached, can_try) = attach()?;
            }
        }
        let mut probes = Self::of(mode, attached, btf, keeping.clone(), can_try);
        match (keeping, why) {
            (Keeping::In(keep), None) => {
                probes.store = Some(Store::new(keep.clone(), probes.hooks(), 0));
            }
            (keeping, why) => {
                let why = why.unwrap_or_default();
                // Otherwise it was told already.
                if matches!(keeping, Keeping::In(_)) {
                    tracing::warn!(
                        "if this collector is killed, watches and totals go with it: {why}"
                    );
                }
                probes.info.not_durable = why;
            }
        }
        Ok(probes)
    }

    /// Attaches the same mode with this collector's programs and so many slots, and
    /// hands over to it what these probes, which were taken over, count. If that fails,
    /// these are as they were.
    pub(super) fn hand_over(&mut self, btf: Option<&Btf>, slots: u32) -> Result<Self, AttachError> {
        let (Some(state), Some(pins)) = (&self.left, self.attached.pins()) else {
            return Err(AttachError::new("there is nothing to hand over"));
        };
        // The kernel makes a function's trampoline anew when a program comes or goes, and
        // calls that are under way leave by the old one, which runs no program any more.
        if self.info.hook_mode == v1::HookMode::Fentry {
            return Err(AttachError::new(
                "of the fentry mode's programs, those that come and go lose calls under way",
            ));
        }
        let before = self.attached.object.sizes;
        let room = Room {
            sizes: Sizes {
                pids: before.pids,
                ..Sizes::of_host(slots)?
            },
            generation: self.attached.object.generation + 1,
            allow_list: Some(pins.allow_list()),
        };
        if room.sizes.cpus != before.cpus {
            return Err(AttachError::new("the number of CPUs has changed"));
        }
        let mut next = Self::attach_in(self.info.hook_mode, btf, &room, &self.keeping)?;
        let note = next.attached.note_program.clone();
        let taken: Vec<Slot> = self.taken.iter().map(|it| it.slot).collect();
        let handed_over = if next.info.follows_children != self.info.follows_children {
            Err(AttachError::new("not both can follow children"))
        } else if !next.info.not_durable.is_empty() {
            Err(AttachError::new(next.info.not_durable.clone()))
        } else {
            hand_over(
                &mut self.attached.object,
                &mut next.attached.object,
                taken.into_iter(),
                state,
                |object, tgid| note_sockets(object, note.as_deref(), tgid),
            )
        };
        let committed = handed_over.and_then(|mut state| {
            // What these have missed and cost goes with them, and is to grow on.
            let past = Figures::of_state(state.past.as_ref()).with(self);
            state.past = Some(past.to_state());
            next.look_at_taken()?;
            next.commit(state)
        });
        match committed {
            Ok(()) => {
                next.set_attempts(self.info.attempts.clone());
                Ok(next)
            }
            Err(error) => {
                next.release();
                drop(next);
                // Births were looked at.
                self.look_at_taken()?;
                Err(error)
            }
        }
    }

    /// The generation of the pins, if there are some.
    pub(super) fn pinned(&self) -> Option<u32> {
        let pins = self.attached.pins();
        pins.map(|_| self.attached.object.generation)
    }

    /// From here on, whoever takes over has these.
    fn commit(&mut self, state: State) -> Result<(), AttachError> {
        if let Some(store) = &mut self.store {
            let number = store.write(state.clone());
            if let Some(why) = store.failure() {
                return Err(AttachError::new(why));
            }
            self.attached.object.marks.set(MARK_STATE, number);
        }
        self.left = Some(state);
        Ok(())
    }

    /// Takes over what a collector has left that is gone, if it is sound and fits.
    pub(super) fn take_over(
        keep: &Keep,
        state: State,
        btf: Option<&Btf>,
    ) -> Result<Self, AttachError> {
        let hooks = state.hooks.clone().unwrap_or_default();
        let pins = Pins::of(keep.pins(hooks.generation));
        let attached = Attached::take_over(pins, &hooks)?;
        let object = &attached.object;
        let mark = object.marks.get(MARK_STATE);
        if !Store::fits(state.number, mark) {
            return Err(AttachError::new(format!(
                "the state is number {}, and the pinned maps belong to {mark}",
                state.number
            )));
        }
        // What a check of before has left.
        object.allow_list.sweep(object.spare);
        let can_try = try_out(&attached)?;
        let mode = v1::HookMode::try_from(hooks.mode).unwrap_or_default();
        let mut probes = Self::of(mode, attached, btf, Keeping::In(keep.clone()), can_try);
        probes.info.attempts.clone_from(&hooks.attempts);
        probes.look_at_taken()?;
        probes.store = Some(Store::new(keep.clone(), hooks, state.number));
        probes.left = Some(state);
        Ok(probes)
    }

    /// Notes which slots are in use; births are told from here on.
    fn look_at_taken(&mut self) -> Result<(), AttachError> {
        let object = &mut self.attached.object;
        object.lives.begin_anew();
        // A birth that was under way when the pool was looked at is complete then.
        thread::sleep(BIRTH);
        let slots = object.lives.taken(object.sizes.slots)?;
        let looks = slots.into_iter().filter_map(|slot| {
            let taken = object.lives.look(slot)?;
            if taken.process.is_none() {
                object.lives.reopen(slot);
            }
            let is_listed = taken
                .process
                .is_some_and(|it| object.allow_list.entry(it.tgid) == slot.0);
            Some(Taken { is_listed, ..taken })
        });
        self.taken = looks.collect();
        Ok(())
    }

    fn of(
        mode: v1::HookMode,
        attached: Attached,
        btf: Option<&Btf>,
        keeping: Keeping,
        can_try: bool,
    ) -> Self {
        let info = KernelInfo {
            hook_mode: mode,
            programs: attached.programs.clone(),
            blind_spots: blind_spots::of(mode, &attached, btf, preemption::is_full()),
            attempts: Vec::new(),
            received_calls_meaning: blind_spots::received_calls(mode, &attached).to_owned(),
            follows_children: attached.follows_children,
            not_durable: String::new(),
        };
        Self {
            attached,
            info,
            keeping,
            store: None,
            left: None,
            taken: Vec::new(),
            can_try,
        }
    }

    /// What a collector must know that takes these over.
    fn hooks(&self) -> Hooks {
        let object = &self.attached.object;
        Hooks {
            generation: object.generation,
            object: object::fingerprint(),
            slots: object.sizes.slots,
            pids: object.sizes.pids,
            cpus: object.sizes.cpus,
            mode: self.info.hook_mode.into(),
            programs: self.info.programs.clone(),
            follows_children: self.info.follows_children,
            attempts: self.info.attempts.clone(),
        }
    }

    /// Tells which modes were tried before.
    pub(super) fn set_attempts(&mut self, attempts: Vec<v1::ModeAttempt>) {
        self.info.attempts = attempts;
        let hooks = self.hooks();
        if let Some(store) = &mut self.store {
            store.set_hooks(hooks);
        }
    }
}

fn note_sockets(object: &Object, note: Option<&str>, tgid: u32) -> Result<(), AttachError> {
    let Some(note) = note else {
        return Ok(());
    };
    object.wishes.set(WISH_TGID, tgid.into());
    sys::iterate_files(object.program_fd(note)?, tgid)?;
    Ok(())
}

/// Whether the hooks could be tried out; fails if they were, and do not count.
fn try_out(attached: &Attached) -> Result<bool, AttachError> {
    if let Tried::Impossible(error) = self_check(attached, PATIENCE)? {
        tracing::warn!(%error, "the hooks are not tried out: no TCP over loopback");
        return Ok(false);
    }
    Ok(true)
}
