//! The terminal: what happens there, and that it is as before in the end.

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    thread,
};

use ratatui::crossterm::event::{self, Event};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    draw::draw,
    model::Model,
    source::{Said, Source},
    view::{View, Wish},
};
use crate::error::{Error, Result};

/// Puts the terminal back, whatever the way out; in a panic the hook of `ratatui` has done so before.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // If the terminal has gone there is nothing to put back.
        let _ = ratatui::try_restore();
    }
}

/// A question under way: gives its source back with the answer.
type Asking = Pin<Box<dyn Future<Output = (Source, Result<Said>)>>>;

/// Shows what `source` says until somebody wants to leave.
///
/// # Errors
/// The master did not answer the first time, or the terminal cannot be used.
pub(super) async fn show(mut source: Source, mut view: View) -> Result<()> {
    let failed = |error: io::Error| Error::runtime("cannot use the terminal", error);
    let mut model = Model::default();
    model.hear(source.ask().await?);
    let mut signals = Signals::listen().map_err(failed)?;
    // Dropped last.
    let _restore = Restore;
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let mut events = events();
    let mut asked = Instant::now();
    // `None`: it is being asked. Keys are heeded meanwhile.
    let mut source = Some(source);
    let mut answer: Asking = Box::pin(pending());
    loop {
        terminal
            .draw(|frame| draw(frame, &model, &view))
            .map_err(failed)?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Key(key)) => {
                    let workers = model.now.as_ref().map_or(0, |now| now.workers.len());
                    let was_paused = view.paused;
                    if view.on(key, workers) == Wish::Quit {
                        return Ok(());
                    }
                    if was_paused && !view.paused {
                        model.rest();
                    }
                }
                // It has another size, perhaps: it is drawn anew anyway.
                Some(_) => {}
                None => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            },
            () = sleep_until(asked + view.interval), if source.is_some() && !view.paused => {
                asked = Instant::now();
                if let Some(mut source) = source.take() {
                    answer = Box::pin(async move {
                        let said = source.ask().await;
                        (source, said)
                    });
                }
            }
            (back, said) = &mut answer, if source.is_none() => {
                source = Some(back);
                match said {
                    Ok(said) => model.hear(said),
                    Err(error) => model.lose(error.to_string()),
                }
            }
            () = signals.any() => return Ok(()),
        }
    }
}

/// Keys and changes of the terminal's size. They are read on a thread, for that can only be waited for
/// there; it ends with the process, or with the terminal.
fn events() -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Whatever else can ask us to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    quit: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}
