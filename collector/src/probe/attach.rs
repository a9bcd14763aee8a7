//! Loads and attaches single programs, and keeps what is attached.

use std::os::fd::AsFd as _;

use aya::programs::{KProbe, Program, ProgramError};
use netio::v1;

use super::{AttachError, kretprobe::Kretprobe, object::Object};

/// Programs of one object, attached. They detach when this is dropped.
pub(super) struct Attached {
    pub(super) programs: Vec<v1::AttachedProgram>,
    pub(super) kretprobes: Vec<Kretprobe>,
    /// The program that notes a process's sockets before it is allowed, if the
    /// mode needs that.
    pub(super) note_program: Option<&'static str>,
    /// Whether births and exits are seen.
    pub(super) follows_children: bool,
    pub(super) object: Object,
    /// The kernel's types, for the loader; none on a kernel without BTF.
    types: Option<aya::Btf>,
}

impl Attached {
    /// Nothing is attached yet.
    pub(super) fn new(object: Object) -> Result<Self, AttachError> {
        Ok(Self {
            programs: Vec::new(),
            kretprobes: Vec::new(),
            note_program: None,
            follows_children: false,
            object,
            types: aya::Btf::from_sys_fs().ok(),
        })
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
        program.attach()?;
        self.add(name, format!("tp_btf/{event}"))
    }

    /// Attaches `name` to the tracepoint `event`, with untyped arguments.
    pub(super) fn raw_tp(&mut self, name: &'static str, event: &str) -> Result<(), AttachError> {
        let Program::RawTracePoint(program) = self.object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load()?;
        program.attach(event)?;
        self.add(name, format!("raw_tp/{event}"))
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
        self.add(name, format!("tracepoint/{category}:{event}"))
    }

    /// Attaches `name` to the exit of `function`.
    pub(super) fn fexit(&mut self, name: &'static str, function: &str) -> Result<(), AttachError> {
        let Self { object, types, .. } = self;
        let Program::FExit(program) = object.program(name)? else {
            return Err(wrong_type(name));
        };
        program.load(function, known(types)?)?;
        program.attach()?;
        self.add(name, format!("fexit/{function}"))
    }

    /// Attaches `name` to the entry of `function`; one program may be attached
    /// to several.
    pub(super) fn kprobe(&mut self, name: &'static str, function: &str) -> Result<(), AttachError> {
        self.loaded_kprobe(name)?.attach(function, 0)?;
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
        self.note_program = Some(name);
        self.add(name, "iter/task_file".to_owned())
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

fn known(types: &Option<aya::Btf>) -> Result<&aya::Btf, AttachError> {
    types
        .as_ref()
        .ok_or_else(|| AttachError::new("the kernel has no BTF"))
}

fn wrong_type(name: &str) -> AttachError {
    AttachError::new(format!("the object's program {name} is of another type"))
}
