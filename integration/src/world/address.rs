//! Hands out loopback addresses for tasks, from 127.0.16.0 upwards.
//!
//! Addresses are unique in the machine, not only in one world: a process claims a block of 4,096 at a
//! time by holding a UDP socket on the block's last address, so test binaries may run side by side.
//! Invariant: no address is handed out twice by one process, and none lies in 127.128.0.0/9, which
//! belongs to the names that sidecars listen on.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::{Mutex, PoisonError};

use crate::loopback::on_the_machines;

/// First address of the first block.
const FIRST: u32 = u32::from_be_bytes([127, 0, 16, 0]);
/// First address that must not be used.
const END: u32 = u32::from_be_bytes([127, 128, 0, 0]);
const BLOCK: u32 = 4096;
/// Port of the claiming socket.
const CLAIM_PORT: u16 = 30_447;

struct Pool {
    /// Next address, and the first one outside the claimed block.
    next: u32,
    end: u32,
    claims: Vec<UdpSocket>,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { next: FIRST, end: FIRST, claims: Vec::new() });

/// The next free address.
pub(super) fn allocate() -> io::Result<Ipv4Addr> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if pool.next >= pool.end {
            pool.claim()?;
        }
        let address = Ipv4Addr::from(pool.next);
        pool.next += 1;
        if !matches!(address.octets()[3], 0 | 255) {
            return Ok(address);
        }
    }
}

impl Pool {
    /// Moves to the next block which no other process holds.
    fn claim(&mut self) -> io::Result<()> {
        let mut block = self.end;
        while block < END {
            let last = Ipv4Addr::from(block + BLOCK - 1);
            match claim_socket(last) {
                Ok(socket) => {
                    self.claims.push(socket);
                    self.next = block;
                    self.end = block + BLOCK;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => block += BLOCK,
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "every loopback block for tasks is taken"))
    }
}

fn claim_socket(address: Ipv4Addr) -> io::Result<UdpSocket> {
    // A test may have a loopback of its own, on which nobody else would see the claim.
    on_the_machines(|| UdpSocket::bind(SocketAddrV4::new(address, CLAIM_PORT)))
}
