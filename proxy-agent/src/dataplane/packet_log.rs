//! What the programs tell of packets, handed on to the agent's log.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;

/// How often the programs' messages are read; they wait in a ring buffer meanwhile.
const PERIOD: Duration = Duration::from_millis(200);

/// Reads what the programs tell, for as long as it is polled.
pub struct PacketLogReader {
    logger: EbpfLogger<&'static dyn Log>,
}

impl PacketLogReader {
    /// `None` if the programs have no log.
    pub(super) fn new(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(ebpf).ok().map(|logger| Self { logger })
    }

    /// Hands on one message after the other to the `log` facade; never ends by itself.
    pub async fn run(mut self) {
        let mut interval = tokio::time::interval(PERIOD);
        loop {
            interval.tick().await;
            self.logger.flush();
        }
    }
}
