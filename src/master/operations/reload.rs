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
        let made = self.make(&old, &new)?;
        self.state.borrow_mut().settings = new.clone();
        let mut done = Vec::new();
        if old.needs_new_workers(&new) {
            if let (replaced, Some(error)) = self.try_roll(teller).await {
                self.state.borrow_mut().settings = old;
                if replaced > 0 {
                    // Back to what they were.
                    let _ = self.try_roll(teller).await;
                }
                return Err(Error::failed(format!("{error}; nothing has changed")));
            }
            done.push("workers replaced".to_owned());
        }
        done.extend(self.change_listeners(&old, &new, made.groups).await);
        let rules = {
            let state = self.state.borrow();
            rules_of(&state.settings, state.rules.paused)
        };
        if self.state.borrow().rules != rules {
            self.switch(rules).await?;
            done.push(format!("mode {}", rules.arm));
        }
        if self.status.lock().workers != workers {
            done.push(self.scale(workers, teller).await?);
        }
        if let Some(admin) = made.admin {
            self.status.lock().admin = admin.as_ref().map(Admin::address);
            let mut state = self.state.borrow_mut();
            state.admin = admin.map(|admin| admin.serve(&self.status)).transpose()?;
            done.push("admin interface moved".to_owned());
        }
        Ok(match done.is_empty() {
            true => "reloaded, nothing to change".into(),
            false => format!("reloaded: {}", done.join(", ")),
        })
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

    /// Is there a column of the scoreboard for each upstream endpoint?
    fn check_columns(&self, new: &Settings) -> Result<()> {
        let mut status = self.status.lock();
        for name in &new.endpoints {
            if status.endpoint_column(name).is_none() {
                return Err(Error::failed(format!(
                    "no room to count for upstream {name}: too many others since the start; restart"
                )));
            }
        }
        Ok(())
    }

    /// Binds what is new.
    fn make(&self, old: &Settings, new: &Settings) -> Result<Made> {
        let seats = seats_to_make(&new.cluster, self.status.lock().workers);
        let groups = new
            .cluster
            .listen
            .iter()
            .filter(|listen| !old.cluster.listen.contains(listen))
            .map(|listen| match listen {
                Listen::Address(address) => {
                    let group = ListenerGroup::bind(*address, seats)?;
                    let number = self.status.lock().listener_number(group.address());
                    let number = number.ok_or_else(|| {
                        Error::failed(format!(
                            "no room to count for {listen}: too many other listeners since the start; restart"
                        ))
                    })?;
                    Ok((number, listen.clone(), group))
                }
                Listen::Passed(_) => Err(Error::usage(format!(
                    "{listen} cannot be added by a reload: restart"
                ))),
            })
            .collect::<Result<Vec<_>>>()?;
        let admin = match (old.cluster.admin, new.cluster.admin) {
            (a, b) if a == b => None,
            (_, None) => Some(None),
            (_, Some(address)) => Some(Some(Admin::bind(address)?)),
        };
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
