//! Reading the configuration again: all of it is checked, and everything that can fail is done, before
//! anything changes.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::Teller;
use crate::{
    config::{Listen, Settings},
    error::{Error, Result},
    listener::ListenerGroup,
    master::{Admin, rules_of, seats_to_make, supervisor::Supervisor},
    notice,
    scoreboard::{MAX_ENDPOINTS, MAX_LISTENERS},
};

/// How long a listener that is taken away is given until nobody waits in it.
const LAST_ARRIVALS: Duration = Duration::from_secs(1);
/// How long nobody must have come.
const QUIET: Duration = Duration::from_millis(50);

/// What a reload has made before anything changes.
struct Made {
    groups: Vec<(usize, Listen, ListenerGroup)>,
    admin: Option<Option<Admin>>,
}

impl Supervisor {
    /// Goes by the configuration as it is written now, or says why not and changes nothing.
    pub(super) async fn reload(&self, teller: &Teller) -> Result<String> {
        self.status.lock().reload.count += 1;
        self.notifier.iter().for_each(|n| n.reloading());
        let outcome = self.try_reload(teller).await;
        self.notify_ready();
        let mut status = self.status.lock();
        status.reload.successful = outcome.is_ok();
        status.reload.error = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    async fn try_reload(&self, teller: &Teller) -> Result<String> {
        let new = self.read_settings()?;
        let old = self.state.borrow().settings.clone();
        let workers = new.cluster.validate()?.get();
        if let Some(why) = old.cluster.cannot_change(&new.cluster) {
            return Err(Error::usage(why));
        }
        self.check_columns(&new)?;
        let before = self.status.lock().workers;
        self.check_mode(&new)?;
        self.make_room(workers).await?;
        let made = self.make(&old, &new, workers.max(before))?;
        self.state.borrow_mut().settings = new.clone();
        // The one thing left that can fail is a worker, so these come first.
        let mut done = self.renew_workers(&old, &new, workers, teller).await?;
        done.extend(self.change_listeners(&old, &new, made.groups).await);
        let rules = {
            let state = self.state.borrow();
            rules_of(&state.settings, state.rules.paused)
        };
        if self.state.borrow().rules != rules {
            let before = self.state.borrow().rules.clone();
            self.switch(rules.clone()).await?;
            let regrouped = rules.sorter != before.sorter;
            done.push(match rules.arm == before.arm {
                true if regrouped => "other worker groups or pins".to_owned(),
                true => "other limits for dispatching".to_owned(),
                false => format!("mode {}", rules.arm),
            });
        }
        if workers < before {
            done.push(self.scale(workers, teller).await?);
        }
        if let Some(admin) = made.admin {
            done.push(match &admin {
                Some(admin) => format!("admin interface on {}", admin.address()),
                None => "no admin interface".to_owned(),
            });
            self.status.lock().admin = admin.as_ref().map(Admin::address);
            self.state.borrow_mut().admin = admin;
        }
        Ok(match done.is_empty() {
            true => "reloaded, nothing to change".into(),
            false => format!("reloaded: {}", done.join(", ")),
        })
    }

    /// Has workers run by the settings that are in force now, as many as these say if they say more.
    /// If one does not come up, the settings before are in force again.
    async fn renew_workers(
        &self,
        old: &Settings,
        new: &Settings,
        workers: u16,
        teller: &Teller,
    ) -> Result<Vec<String>> {
        let mut done = Vec::new();
        let (mut replaced, mut failure) = (0, None);
        if old.needs_new_workers(new) {
            (replaced, failure) = self.try_roll(teller).await;
            done.push("workers replaced".to_owned());
        }
        if failure.is_none() && workers > self.status.lock().workers {
            match self.try_scale(workers, teller).await {
                Ok(text) => done.push(text),
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else {
            return Ok(done);
        };
        self.state.borrow_mut().settings = old.clone();
        if replaced > 0
            && let (_, Some(again)) = self.try_roll(teller).await
        {
            return Err(Error::failed(format!(
                "{error}; and some workers go by the new configuration, for on the way back {again}"
            )));
        }
        Err(Error::failed(format!("{error}; nothing has changed")))
    }

    fn read_settings(&self) -> Result<Settings> {
        let source = self.state.borrow_mut().source.take();
        let Some(mut source) = source else {
            return Err(Error::usage(
                "there is nothing to reload: the program sets its configuration itself",
            ));
        };
        let read = source();
        self.state.borrow_mut().source = Some(source);
        read
    }

    /// Is there a column of the scoreboard for each upstream endpoint? None is taken yet: a reload that
    /// is refused must not use them up.
    fn check_columns(&self, new: &Settings) -> Result<()> {
        let status = self.status.lock();
        let is_new = |name: &&String| !status.endpoints.contains(name);
        let room = MAX_ENDPOINTS - status.endpoints.len();
        match new.endpoints.iter().filter(is_new).nth(room) {
            Some(name) => Err(Error::failed(format!(
                "no room to count for upstream {name}: {MAX_ENDPOINTS} were in use since the start, which is the most; restart"
            ))),
            None => Ok(()),
        }
    }

    /// Can every listener that is there dispatch in the new mode?
    fn check_mode(&self, new: &Settings) -> Result<()> {
        let state = self.state.borrow();
        let mut staying = state
            .listening
            .iter()
            .filter(|(_, listen)| new.cluster.listen_passed || new.cluster.listen.contains(listen))
            .filter_map(|(number, _)| state.groups.get(*number)?.as_ref());
        staying.try_for_each(|group| group.allows(new.cluster.arm.mode()))
    }

    /// Binds what is new, with room for `workers`.
    fn make(&self, old: &Settings, new: &Settings, workers: u16) -> Result<Made> {
        let seats = seats_to_make(&new.cluster, workers);
        let bound = new
            .cluster
            .listen
            .iter()
            .filter(|listen| !old.cluster.listen.contains(listen))
            .map(|listen| match listen {
                Listen::Address(address) => {
                    Ok((listen.clone(), ListenerGroup::bind(*address, seats)?))
                }
                Listen::Passed(_) => Err(Error::usage(format!(
                    "{listen} cannot be added by a reload: restart"
                ))),
            })
            .collect::<Result<Vec<_>>>()?;
        let admin = match (old.cluster.admin, new.cluster.admin) {
            (a, b) if a == b => None,
            (_, None) => Some(None),
            (_, Some(address)) => Some(Some(Admin::bind(address)?.serve(&self.status)?)),
        };
        // Last, for a number is for life.
        let mut status = self.status.lock();
        let known = |address: String| status.listeners.iter().any(|l| l.address == address);
        let unknown = bound
            .iter()
            .filter(|(_, g)| !known(g.address().to_string()));
        let room = MAX_LISTENERS - status.listeners.len();
        if let Some((listen, _)) = unknown.clone().nth(room) {
            return Err(Error::failed(format!(
                "no room to count for {listen}: {MAX_LISTENERS} addresses were listened on since the start, which is the most; restart"
            )));
        }
        let groups = bound
            .into_iter()
            .filter_map(|(listen, group)| {
                Some((status.listener_number(group.address())?, listen, group))
            })
            .collect();
        drop(status);
        Ok(Made { groups, admin })
    }

    /// Listens where it is new to, and no more where it is no longer to.
    async fn change_listeners(
        &self,
        old: &Settings,
        new: &Settings,
        added: Vec<(usize, Listen, ListenerGroup)>,
    ) -> Vec<String> {
        let gone: Vec<&Listen> = old
            .cluster
            .listen
            .iter()
            .filter(|listen| !new.cluster.listen.contains(listen))
            .collect();
        if added.is_empty() && gone.is_empty() {
            return Vec::new();
        }
        let mut done = Vec::new();
        let (mut groups, dispatcher) = {
            let state = self.state.borrow();
            (state.groups.to_vec(), state.dispatcher.clone())
        };
        for (number, listen, group) in added {
            done.push(format!("listening on {}", group.address()));
            groups.resize(groups.len().max(number + 1), None);
            groups[number] = Some(Arc::new(group));
            self.status.lock().listeners[number].open = true;
            self.state.borrow_mut().listening.insert(number, listen);
        }
        let mut closing = Vec::new();
        for listen in gone {
            let number = {
                let state = self.state.borrow();
                let mut known = state.listening.iter();
                known.find(|(_, l)| *l == listen).map(|(number, _)| *number)
            };
            if let Some(number) = number
                && let Some(group) = groups.get(number).cloned().flatten()
            {
                group.close();
                closing.push((number, group));
            }
        }
        self.state.borrow_mut().groups = groups.clone().into();
        dispatcher.set_groups(groups.clone().into()).await;
        self.open_doors().await;
        self.steer();
        if closing.is_empty() {
            return done;
        }
        let (mut quiet_since, deadline) = (Instant::now(), Instant::now() + LAST_ARRIVALS);
        while quiet_since.elapsed() < QUIET && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
            if closing.iter().any(|(_, group)| group.waiting() > 0) {
                quiet_since = Instant::now();
            }
        }
        if self.status.lock().stopping {
            // Then all listeners are closed already.
            return done;
        }
        for (number, group) in closing {
            groups[number] = None;
            self.state.borrow_mut().listening.remove(&number);
            self.status.lock().listeners[number].open = false;
            if group.waiting() > 0 {
                notice(format_args!(
                    "{} connections on {} were not taken in time",
                    group.waiting(),
                    group.address()
                ));
            }
            done.push(format!("no longer listening on {}", group.address()));
        }
        self.state.borrow_mut().groups = groups.clone().into();
        dispatcher.set_groups(groups.into()).await;
        done
    }
}
