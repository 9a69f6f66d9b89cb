//! One timer for many deadlines.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// A timer for deadlines that move on with every request and almost never come.
///
/// Setting a tokio timer for each request, and clearing it again, would cost more than all other
/// accounting. So the timer is left where it is as long as it goes off *before* the deadline; when it
/// does, the deadline is looked at and the timer set anew. Only a deadline earlier than the timer
/// moves it.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer goes off, monotonic nanoseconds.
    rings: u64,
}

impl Alarm {
    /// Has `deadline` come? If not, the task is woken in time to ask again. Both times are
    /// monotonic nanoseconds; `now` may be as old as the present turn of the loop.
    ///
    /// Always to be asked from the same task.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: u64, deadline: u64) -> Poll<()> {
        if now >= deadline {
            return Poll::Ready(());
        }
        // Registered already, and early enough.
        if self.rings > now && self.rings <= deadline {
            return Poll::Pending;
        }
        self.set(cx, now, deadline)
    }

    #[cold]
    fn set(&mut self, cx: &mut Context<'_>, now: u64, deadline: u64) -> Poll<()> {
        let left = Duration::from_nanos(deadline - now);
        self.rings = deadline;
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.as_mut().reset(Instant::now() + left);
                timer
            }
            None => self.timer.insert(Box::pin(sleep(left))),
        };
        timer.as_mut().poll(cx)
    }
}
