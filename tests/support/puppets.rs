//! Processes that do as a test says, and whose every byte the test knows.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
    thread,
};

use tempfile::TempDir;

use super::{PATIENCE, Result, binary};

/// The puppets, by pid. They exit when this is dropped.
pub struct Puppets {
    control: UnixListener,
    sink: SocketAddr,
    strings: BTreeMap<u32, Strings>,
    /// Those that were started, not forked.
    started: Vec<Child>,
    directory: TempDir,
}

struct Strings {
    orders: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Puppets {
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        Ok(Self {
            control: UnixListener::bind(directory.path().join("control"))?,
            sink: sink()?,
            strings: BTreeMap::new(),
            started: Vec::new(),
            directory,
        })
    }

    /// Starts one; its pid.
    pub fn start(&mut self) -> Result<u32> {
        let process = Command::new(binary("netio-traffic"))
            .arg("puppet")
            .arg(self.directory.path().join("control"))
            .arg(self.sink.to_string())
            .stdin(Stdio::null())
            .spawn()?;
        self.started.push(process);
        self.take_up()
    }

    /// Has one fork, perhaps a child with the given pid; the child's pid. Its
    /// birth has been seen by the kernel's programs then.
    pub fn fork(&mut self, parent: u32, pid: Option<u32>) -> Result<u32> {
        let pid = pid.map_or_else(String::new, |pid| format!(" {pid}"));
        let told = self.order(parent, &format!("fork{pid}"))?;
        let child = self.take_up()?;
        assert_eq!(told, child.to_string());
        Ok(child)
    }

    /// Has one send.
    pub fn send(&mut self, pid: u32, bytes: u64) -> Result {
        let told = self.order(pid, &format!("send {bytes}"))?;
        assert_eq!(told, "ok");
        Ok(())
    }

    /// Has one exit, and waits until it has let go of its files, which is after
    /// its exit was seen by the kernel's programs.
    pub fn exit(&mut self, pid: u32) -> Result {
        let mut strings = self.strings.remove(&pid).ok_or("no such puppet")?;
        writeln!(strings.orders, "exit")?;
        let mut rest = String::new();
        strings.answers.read_to_string(&mut rest)?;
        if !rest.is_empty() {
            return Err(format!("puppet {pid} says {rest:?}").into());
        }
        // Those that were started leave their pids only when they are waited for.
        for process in self.started.iter_mut().filter(|it| it.id() == pid) {
            process.wait()?;
        }
        Ok(())
    }

    fn order(&mut self, pid: u32, order: &str) -> Result<String> {
        let strings = self.strings.get_mut(&pid).ok_or("no such puppet")?;
        writeln!(strings.orders, "{order}")?;
        strings.line()
    }

    /// Takes up the strings of a new puppet; its pid.
    fn take_up(&mut self) -> Result<u32> {
        let (orders, _) = self.control.accept()?;
        orders.set_read_timeout(Some(PATIENCE))?;
        let mut strings = Strings {
            answers: BufReader::new(orders.try_clone()?),
            orders,
        };
        let pid = strings.line()?.parse()?;
        self.strings.insert(pid, strings);
        Ok(pid)
    }
}

impl Drop for Puppets {
    fn drop(&mut self) {
        // The end of its orders ends a puppet.
        self.strings.clear();
        for process in &mut self.started {
            let _ = process.wait();
        }
    }
}

impl Strings {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("a puppet broke off".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A server that swallows what it is sent; it ends with the test.
fn sink() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = std::io::copy(&mut &connection, &mut std::io::sink());
            });
        }
    });
    Ok(address)
}
