//! What Pointsman promises, each promise a test that starts the real binary.
//!
//! | room | promises about |
//! | --- | --- |
//! | `basics` | starting, being told nonsense, stopping, the admin interface |
//! | `dispatch` | every mode and policy: who gets which connection |
//! | `deaths` | what happens to connections when processes die |
//! | `proxying` | what the upstream and the client get to see |
//! | `bodies` | large, slow and broken bodies, time-outs |
//! | `tunnels` | WebSocket and other upgrades |

mod harness;

#[path = "promises/basics.rs"]
mod basics;
#[path = "promises/bodies.rs"]
mod bodies;
#[path = "promises/deaths.rs"]
mod deaths;
#[path = "promises/dispatch.rs"]
mod dispatch;
#[path = "promises/proxying.rs"]
mod proxying;
#[path = "promises/tunnels.rs"]
mod tunnels;
