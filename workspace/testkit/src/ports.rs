//! Free ports that stay ours, also while the server behind one is down.

use std::{
    fs::{self, File},
    net::TcpListener,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use crate::StartError;

/// Below the range from which the system takes ports for outgoing connections, so that none of those can sit on a
/// server's port between its kill and its restart.
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on 127.0.0.1, reserved among all test processes of this machine until dropped (or until the process ends).
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: File,
}

impl Port {
    /// Reserves a port that nobody listens on.
    ///
    /// # Errors
    /// When no port is free or the reservations' folder cannot be written.
    pub fn reserve() -> Result<Self, StartError> {
        let folder = std::env::temp_dir().join("posthaste-test-ports");
        fs::create_dir_all(&folder).map_err(StartError::io(format!("create {}", folder.display())))?;
        // Processes start in different places, so that they seldom meet.
        let start = (process::id().wrapping_mul(7_919) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (start + step) % COUNT;
            let path = folder.join(number.to_string());
            let reservation = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(StartError::io(format!("open {}", path.display())))?;
            if reservation.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self {
                    number,
                    _reservation: reservation,
                });
            }
        }
        Err(StartError::Io {
            doing: "reserve a port".to_owned(),
            reason: format!("none is free from {FIRST} to {}", FIRST + COUNT - 1),
        })
    }

    /// The port's number.
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<number>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_reserved_once() {
        let ports: Vec<Port> = (0..20).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        for port in &ports {
            assert!(TcpListener::bind(port.address()).is_ok());
        }
    }
}
