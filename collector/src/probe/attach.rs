//! Loads and attaches single programs, and keeps what is attached.

use std::os::fd::AsFd as _;

use aya::programs::{KProbe, Program, ProgramError, links::FdLink};
use netio::v1;

use super::{AttachError, kretprobe::Kretprobe, object::Object, pins::Pins, sizes::Sizes};
use crate::keep::Hooks;

/// Programs of one object, attached. They detach when this is dropped, unless they
/// are pinned.
pub(super) struct Attached {
    /// Dropped first: nothing counts once the maps' memory goes.
    links: Vec<(String, FdLink)>,
    /// Why something of it cannot be pinned, if so.
    unpinnable: Option<&'static str>,
    pins: Option<Pins>,
    pub(super) programs: Vec<v1::AttachedProgram>,
    pub(super) kretprobes: Vec<Kretprobe>,
    /// The program that notes a process's sockets before it is allowed, if the
    /// mode needs that.
    pub(super) note_program: Option<String>,
    /// Whether births and exits are seen.
    pub(super) follows_children: bool,
    pub(super) object: Object,
    /// The kernel's types, for the loader; none on a kernel without BTF.
    types: Option<aya::Btf>,
}

/// Why kprobes do not outlive their collector.
const KPROBES: &str = "the hooks of the kprobe mode end with the collector; those of other \
                       modes can be pinned, on kernels that have them";
/// Where the program is attached that notes sockets: only for as long as it runs.
const NOTING: &str = "iter/task_file";

impl Attached {
    /// Nothing is attached yet.
    pub(super) fn new(object: Object) -> Result<Self, AttachError> {
        Ok(Self {
            links: Vec::new(),
            unpinnable: None,
            pins: None,
            programs: Vec::new(),
            kretprobes: Vec::new(),
            note_program: None,
            follows_children: false,
            object,
            types: aya::Btf::from_sys_fs().ok(),
        })
    }

    /// Takes over what another collector has left pinned.
    pub(super) fn take_over(pins: Pins, hooks: &Hooks) -> Result<Self, AttachError> {
        let sizes = Sizes {
            pids: hooks.pids,
            cpus: hooks.cpus,
            slots: hooks.slots,
        };
        let names = hooks.programs.iter().map(|it| it.name.clone());
        let object = Object::take_over(&pins, names, sizes, hooks.generation)?;
        let mut links = Vec::new();
        for program in &hooks.programs {
            let id = program.program_id;
            if object.program_facts(&program.name)?.id() != Some(id.into()) {
                return Err(AttachError::new(format!(
                    "program {} is another than the one of the state, {id}",
                    program.name
                )));
            }
            if program.hook != NOTING {
                let name = link_name(program);
                links.push((name.clone(), pins.link(&name, id)?));
            }
        }
        let note_program = hooks.programs.iter().find(|it| it.hook == NOTING);
        Ok(Self {
            links,
            unpinnable: None,
            pins: Some(pins),
            programs: hooks.programs.clone(),
            kretprobes: Vec::new(),
            note_program: note_program.map(|it| it.name.clone()),
            follows_children: hooks.follows_children,
            object,
            types: None,
        })
    }

    /// Pins everything. After a failure some of it is detached.
    pub(super) fn pin(&mut self, pins: Pins) -> Result<(), AttachError> {
        if let Some(why) = self.unpinnable {
            return Err(AttachError::new(why));
        }
        let names: Vec<String> = self.names().map(str::to_owned).collect();
        self.object.pin(&pins, names.iter().map(String::as_str))?;
        for (name, link) in std::mem::take(&mut self.links) {
            let link = pins.pin_link(&name, link)?;
            self.links.push((name, link));
        }
        self.pins = Some(pins);
        Ok(())
    }

    /// Its pins, if it has some.
    pub(super) fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }

    /// Has it end with the collector; for the first reason that is given.
    pub(super) fn cannot_be_pinned(&mut self, why: &'static str) {
        self.unpinnable.get_or_insert(why);
    }

    /// Whether something of it cannot be pinned.
    pub(super) fn unpinnable(&self) -> Option<&'static str> {
        self.unpinnable
    }

    /// Takes the pins away: it detaches when it is dropped.
    pub(super) fn unpin(&mut self) {
        if let Some(pins) = self.pins.take()
            && let Err(error) = pins.remove()
        {
            tracing::error!(%error, "the pins cannot be removed: the probes stay attached; see `netio-collector uninstall`");
        }
    }

    /// The names of the attached programs, each once.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let mut seen = Vec::new();
        self.programs
            .iter()
            .map(|program| program.name.as_str())
            .filter(move |name| {
                let new = !seen.contains(name);
                seen.push(*name);
                new
            })
    }

    /// Whether some of it are at the exits of functions.
    pub(super) fn has_trampolines(&self) -> bool {
        let mut programs = self.programs.iter();
        programs.any(|program| program.hook.starts_with("fexit/"))
    }

    /// Whether a program is attached at this hook.
    pub(super) fn has_hook(&self, hook: &str) -> bool {
        self.programs.iter().any(|program| program.hook == hook)
    }

    /// Attaches `name` to the tracepoint `event`, whose arguments the kernel
    /// types.
    pub(super) fn tp_btf(&mut self, name: &'static str, event: &str) -> Result<(), AttachError> {
        let Self { object, types, .. } = self;
        let Program::BtfTracePoint(program) = object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load(event, known(types)?)?;
        let link = program.attach()?;
        let link = program.take_link(link)?.into();
        self.add_link(name, format!("tp_btf/{event}"), link)
    }

    /// Attaches `name` to the tracepoint `event`, with untyped arguments.
    pub(super) fn raw_tp(&mut self, name: &'static str, event: &str) -> Result<(), AttachError> {
        let Program::RawTracePoint(program) = self.object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load()?;
        let link = program.attach(event)?;
        let link = program.take_link(link)?.into();
        self.add_link(name, format!("raw_tp/{event}"), link)
    }

    /// Attaches `name` to the tracepoint `event` of `category`, by its record.
    pub(super) fn tracepoint(
        &mut self,
        name: &'static str,
        category: &str,
        event: &str,
    ) -> Result<(), AttachError> {
        let Program::TracePoint(program) = self.object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load()?;
        program.attach(category, event)?;
        self.unpinnable = Some(
            "tracepoints by their records, as on a kernel without BTF, end with the collector; use a kernel built \
             with CONFIG_DEBUG_INFO_BTF=y",
        );
        self.add(name, format!("tracepoint/{category}:{event}"))
    }

    /// Attaches `name` to the exit of `function`.
    pub(super) fn fexit(&mut self, name: &'static str, function: &str) -> Result<(), AttachError> {
        let Self { object, types, .. } = self;
        let Program::FExit(program) = object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load(function, known(types)?)?;
        let link = program.attach()?;
        let link = program.take_link(link)?.into();
        self.add_link(name, format!("fexit/{function}"), link)
    }

    /// Attaches `name` to the entry of `function`; one program may be attached
    /// to several.
    pub(super) fn kprobe(&mut self, name: &'static str, function: &str) -> Result<(), AttachError> {
        self.loaded_kprobe(name)?.attach(function, 0)?;
        self.unpinnable = Some(KPROBES);
        self.add(name, format!("kprobe/{function}"))
    }

    /// Attaches `name` to the return of `function`; one program may be attached
    /// to several.
    pub(super) fn kretprobe(
        &mut self,
        name: &'static str,
        function: &str,
    ) -> Result<(), AttachError> {
        let program = self.loaded_kprobe(name)?;
        let probe = Kretprobe::attach(program.fd()?.as_fd(), function)
            .map_err(|error| AttachError::new(format!("kretprobe {function}: {error}")))?;
        self.kretprobes.push(probe);
        self.unpinnable = Some(KPROBES);
        self.add(name, format!("kretprobe/{function}"))
    }

    fn loaded_kprobe(&mut self, name: &'static str) -> Result<&mut KProbe, AttachError> {
        let Program::KProbe(program) = self.object.program(name)? else {
            return Err(wrong_type(name));
        };
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
            Err(error) => Err(error.into()),
        }
    }

    /// Loads the iterator `name` over a process's files, to run before a process
    /// is allowed.
    pub(super) fn noting(&mut self, name: &'static str) -> Result<(), AttachError> {
        let Self { object, types, .. } = self;
        let Program::Iter(program) = object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load("task_file", known(types)?)?;
        self.note_program = Some(name.to_owned());
        self.add(name, NOTING.to_owned())
    }

    fn add_link(&mut self, name: &str, hook: String, link: FdLink) -> Result<(), AttachError> {
        self.add(name, hook)?;
        if let Some(program) = self.programs.last() {
            self.links.push((link_name(program), link));
        }
        Ok(())
    }

    fn add(&mut self, name: &str, hook: String) -> Result<(), AttachError> {
        let program = self.object.program(name)?;
        self.programs.push(v1::AttachedProgram {
            name: name.to_owned(),
            hook,
            program_id: program.info()?.id(),
        });
        Ok(())
    }
}

/// The name of a program's link among the pins.
fn link_name(program: &v1::AttachedProgram) -> String {
    format!("{}-{}", program.name, program.hook.replace('/', "-"))
}

fn known(types: &Option<aya::Btf>) -> Result<&aya::Btf, AttachError> {
    types
        .as_ref()
        .ok_or_else(|| AttachError::new("the kernel has no BTF"))
}

fn wrong_type(name: &str) -> AttachError {
    AttachError::new(format!("the object's program {name} is of another type"))
}
