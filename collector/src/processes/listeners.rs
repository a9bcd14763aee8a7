//! Finds the TCP sockets that listen.
//!
//! Takes processes, produces [`Listeners`]: the port of each socket that listens
//! in the network namespaces that the processes are in, by IPv4 or IPv6. A
//! namespace that no process is in any more is not seen.
#![forbid(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    io::{self, BufRead},
};

use super::entry::Entry;

/// The port that each socket listens on, by the socket's inode.
pub(super) type Listeners = HashMap<u64, u16>;

/// Those of every network namespace that these processes are in. Processes that
/// have exited meanwhile do not matter.
pub(super) fn of_all<E>(entries: impl Iterator<Item = Result<Entry, E>>) -> Result<Listeners, E> {
    let mut listeners = Listeners::new();
    let mut seen = HashSet::new();
    for entry in entries {
        let entry = entry?;
        let Ok(namespace) = entry.network_namespace() else {
            continue;
        };
        // Should the process exit while it is read, another one in its namespace
        // may follow.
        if !seen.contains(&namespace)
            && let Ok(found) = of(&entry)
        {
            listeners.extend(found);
            seen.insert(namespace);
        }
    }
    Ok(listeners)
}

/// Those of the network namespace that this process is in.
pub(super) fn of(entry: &Entry) -> io::Result<Listeners> {
    let mut listeners = Listeners::new();
    read(entry.network("tcp")?, &mut listeners)?;
    match entry.network("tcp6") {
        Ok(table) => read(table, &mut listeners)?,
        Err(error) => {
            // There is none where IPv6 is off; nor if the process has exited.
            entry.network_namespace().map_err(|_| error)?;
        }
    }
    Ok(listeners)
}

/// Reads a table such as /proc/net/tcp. It is not left to `procfs`, because
/// listening sockets come first (Documentation/networking/proc_net_tcp.rst), and
/// the kernel need not tell the connections, of which a server may have very
/// many.
fn read(table: impl BufRead, listeners: &mut Listeners) -> io::Result<()> {
    const HEADER: usize = 1;
    for line in table.lines().skip(HEADER) {
        let line = line?;
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields[..] else {
            break;
        };
        let port = local.rsplit(':').next();
        let port = port.and_then(|port| u16::from_str_radix(port, 16).ok());
        // The kernel's own sockets have no inode.
        if let (Some(port), Ok(inode @ 1..)) = (port, inode.parse()) {
            listeners.insert(inode, port);
        }
    }
    Ok(())
}

/// The state, as the table has it.
const LISTEN: &str = "0A";

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     
   0: 00000000:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 12345 1 0000000000000000 100 0 0 10 0                     
   1: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 67890 1 0000000000000000 100 0 0 10 0                     
   2: 0100007F:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 100 0 0 10 0                     
   3: 0100007F:0CEA 0100007F:D431 01 00000000:00000000 00:00000000 00000000   101        0 4711 1 0000000000000000 20 4 30 10 -1                    
   4: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1 0000000000000000 100 0 0 10 0                     
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 67891 1 0000000000000000 100 0 0 10 0
";

    fn listeners(table: &str) -> Listeners {
        let mut listeners = Listeners::new();
        read(table.as_bytes(), &mut listeners).unwrap();
        listeners
    }

    #[test]
    fn the_sockets_that_listen_are_read_up_to_the_first_connection() {
        let expected = Listeners::from([(12345, 3306), (67890, 5432)]);
        assert_eq!(listeners(TCP), expected);
        assert_eq!(listeners(TCP6), Listeners::from([(67891, 5432)]));
        assert_eq!(listeners(TCP.lines().next().unwrap()), Listeners::new());
        assert_eq!(listeners(""), Listeners::new());
    }
}
