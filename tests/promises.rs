//! What Pointsman promises, each promise a test that starts the real binary.
//!
//! | room | promises about |
//! | --- | --- |
//! | `basics` | starting, being told nonsense, stopping, the admin interface |
//! | `configuration` | the configuration file and `check` |
//! | `dispatch` | every mode and policy: who gets which connection |
//! | `deaths` | what happens to connections when processes die |
//! | `environment` | systemd, containers, users: whoever starts it |
//! | `explaining` | shadow policies, and why a worker was chosen |
//! | `groups` | worker groups, and clients that are pinned to them |
//! | `hangs` | workers that stand still |
//! | `switching` | modes, pauses and numbers of workers, changed under traffic |
//! | `reloads` | the configuration, read again |
//! | `comparing` | comparisons of modes on live traffic |
//! | `upgrades` | another binary in the same process |
//! | `shortages` | processes that run out of descriptors |
//! | `proxying` | what the upstream and the client get to see |
//! | `bodies` | large, slow and broken bodies, time-outs |
//! | `tunnels` | WebSocket and other upgrades |

mod harness;

#[path = "promises/basics.rs"]
mod basics;
#[path = "promises/bodies.rs"]
mod bodies;
#[path = "promises/comparing.rs"]
mod comparing;
#[path = "promises/configuration.rs"]
mod configuration;
#[path = "promises/control.rs"]
mod control;
#[path = "promises/deaths.rs"]
mod deaths;
#[path = "promises/dispatch.rs"]
mod dispatch;
#[path = "promises/environment.rs"]
mod environment;
#[path = "promises/explaining.rs"]
mod explaining;
#[path = "promises/groups.rs"]
mod groups;
#[path = "promises/hangs.rs"]
mod hangs;
#[path = "promises/proxying.rs"]
mod proxying;
#[path = "promises/reloads.rs"]
mod reloads;
#[path = "promises/shortages.rs"]
mod shortages;
#[path = "promises/switching.rs"]
mod switching;
#[path = "promises/tunnels.rs"]
mod tunnels;
#[path = "promises/upgrades.rs"]
mod upgrades;
