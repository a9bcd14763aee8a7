//! Just enough of the MySQL client protocol to send a query and read all of its
//! result, over a socket whose own byte counts can be asked for.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use netio_traffic::{TcpInfo, tcp_info};

use super::{PATIENCE, Result};

const CLIENT_PROTOCOL_41: u32 = 0x200;
const CLIENT_SECURE_CONNECTION: u32 = 0x8000;
const CLIENT_PLUGIN_AUTH: u32 = 0x8_0000;

const OK: u8 = 0x00;
const END: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// A connection of user root, who has no password.
pub struct Connection {
    socket: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self {
            socket: BufReader::new(socket),
        };
        let (sequence, _greeting) = connection.packet()?;
        let capabilities = CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH;
        let max_packet: u32 = 64 << 20;
        let mut hello = Vec::new();
        hello.extend(capabilities.to_le_bytes());
        hello.extend(max_packet.to_le_bytes());
        hello.push(33); // utf8
        hello.extend([0; 23]);
        hello.extend(b"root\0");
        hello.push(0); // the length of an empty password's scramble
        hello.extend(b"mysql_native_password\0");
        connection.send(sequence + 1, &hello)?;
        let (sequence, mut answer) = connection.packet()?;
        if answer.first() == Some(&END) {
            // The server asks once more, by another method.
            connection.send(sequence + 1, &[])?;
            answer = connection.packet()?.1;
        }
        expect_ok(&answer)?;
        Ok(connection)
    }

    /// Runs a statement and reads its result to the end; gives the bytes of the
    /// rows.
    pub fn query(&mut self, statement: &str) -> Result<usize> {
        let mut command = vec![3]; // COM_QUERY
        command.extend(statement.as_bytes());
        self.send(0, &command)?;
        let (_, first) = self.packet()?;
        if matches!(first.first(), Some(&OK) | Some(&ERROR)) {
            expect_ok(&first)?;
            return Ok(0);
        }
        while !self.at_end()?.1 {} // the columns
        let mut bytes = 0;
        loop {
            let (length, end) = self.at_end()?;
            if end {
                return Ok(bytes);
            }
            bytes += length;
        }
    }

    /// What the kernel counted on this end of the connection.
    pub fn info(&self) -> Result<TcpInfo> {
        Ok(tcp_info(self.socket.get_ref())?)
    }

    fn at_end(&mut self) -> Result<(usize, bool)> {
        let (_, packet) = self.packet()?;
        if packet.first() == Some(&ERROR) {
            expect_ok(&packet)?;
        }
        Ok((
            packet.len(),
            packet.first() == Some(&END) && packet.len() < 9,
        ))
    }

    fn packet(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut header = [0; 4];
        self.socket.read_exact(&mut header)?;
        let [a, b, c, sequence] = header;
        let mut payload = vec![0; u32::from_le_bytes([a, b, c, 0]) as usize];
        self.socket.read_exact(&mut payload)?;
        Ok((sequence, payload))
    }

    fn send(&mut self, sequence: u8, payload: &[u8]) -> Result {
        let length = u32::try_from(payload.len())?.to_le_bytes();
        let mut packet = vec![length[0], length[1], length[2], sequence];
        packet.extend(payload);
        Ok(self.socket.get_mut().write_all(&packet)?)
    }
}

fn expect_ok(packet: &[u8]) -> Result {
    match packet.first() {
        Some(&OK) => Ok(()),
        _ => Err(format!("the server says: {}", String::from_utf8_lossy(packet)).into()),
    }
}
