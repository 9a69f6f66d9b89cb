//! Replacing all workers, one after the other, each successor ready before its predecessor drains.

use super::Teller;
use crate::{
    error::{Error, Result},
    master::supervisor::Supervisor,
    status::Seat,
};

impl Supervisor {
    /// Replaces every worker. If a successor does not become ready the roll ends there: its
    /// predecessor goes on, and so do those that were replaced before.
    pub(super) async fn roll(&self, teller: &Teller) -> Result<String> {
        let (replaced, failure) = self.try_roll(teller).await;
        match failure {
            None => Ok(format!(
                "{replaced} replaced; their predecessors finish what they hold"
            )),
            Some(error) => Err(Error::failed(match replaced {
                0 => format!("{error}; nothing has changed"),
                n => format!("{error}; {n} workers were replaced before"),
            })),
        }
    }

    /// The same, counting: how many were replaced, and what ended it early.
    pub(super) async fn try_roll(&self, teller: &Teller) -> (u16, Option<Error>) {
        let mut replaced = 0;
        let seats: Vec<Seat> = {
            let (workers, state) = (self.status.lock().workers, self.state.borrow());
            (0..workers).map(|number| state.seat(number)).collect()
        };
        for seat in seats {
            let outcome = match self.spawn(seat).await {
                Ok(birth) => self.await_ready(seat, birth).await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return (replaced, Some(error));
            }
            replaced += 1;
            teller.say(format!("worker {} is a new one", seat.number));
        }
        (replaced, None)
    }
}
