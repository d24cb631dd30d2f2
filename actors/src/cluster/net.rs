//! Net: the one actor of a node that other nodes can reach; hands each frame to the link of its sender.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::frame;
use super::link;
use super::links::Shared;
use crate::ids::BootId;

/// The name under which the router of a boot is announced to other nodes.
pub(super) fn name(boot: BootId) -> String {
    format!("net-{:016x}", boot.0)
}

/// The router. Its messages are opaque frames, so the transport below never decodes anything of ours.
pub(super) struct Net;

impl Actor for Net {
    type Msg = Vec<u8>;
    type State = Arc<Shared>;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        _myself: ActorRef<Vec<u8>>,
        shared: Arc<Shared>,
    ) -> Result<Arc<Shared>, ActorProcessingErr> {
        Ok(shared)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Vec<u8>>,
        bytes: Vec<u8>,
        shared: &mut Arc<Shared>,
    ) -> Result<(), ActorProcessingErr> {
        let head = match frame::read(&bytes) {
            Ok(head) => head,
            Err(bad) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%bad, "frame refused");
                return Ok(());
            }
        };
        match shared.peers.get(&head.from) {
            // A link that is being restarted misses frames; its session is ended, so the peer learns.
            Some(gate) => gate.tell(link::Msg::Arrived { head, bytes }),
            None => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
