//! The bus for those who are not Rust: lines of JSON over the control socket.
//!
//! `GET /bus` with `Upgrade: pointsman-bus` makes whoever asks a *guest*: a process on the bus like a
//! worker. From then on both sides say one JSON object per line: the guest [`Order`]s, the master
//! [`Event`]s. `docs/bus.md` is the page for people who write a guest.
//!
//! | file | what is there |
//! | --- | --- |
//! | `order` | what a guest says |
//! | `event` | what it is told |
//! | `shown` | what a message says ↔ a field of such a line |
//! | `lines` | bytes → lines, none of them too long |
//! | `guest` | the asking end, for `ctl bus` |

mod event;
mod guest;
mod lines;
mod order;
mod shown;

pub(crate) use self::{
    event::{CLOSED, Event, What, line},
    guest::{Guest, Hears, Refusal},
    lines::{Lines, TooLong},
    order::{Errand, NoOrder, Op, Order, balance, whom},
    shown::Shown,
};

/// What a guest asks the connection to be upgraded to.
pub(crate) const UPGRADE: &str = "pointsman-bus";
/// Of the lines; one more with every change that an older guest could not understand.
pub(crate) const PROTOCOL: u32 = 1;
/// The longest line that a guest may send, in bytes, without its end: enough for the largest payload
/// however it is written down.
pub(crate) const MAX_LINE: usize = 512 * 1024;
