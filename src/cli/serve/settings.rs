//! What flags and file mean: the settings of a master.

use std::{fmt::Display, path::Path};

use super::Serve;
use crate::{
    cluster::{listen, resolve},
    config::{
        BusConfig, BusOptions, ClusterConfig, ConnectionTimeouts, ControlSocket, Endpoint,
        HangLimits, ProxyConfig, Refusal, Settings, UpstreamTimeouts, dispatch,
    },
    dispatch::{pins::Pins, policy::Prefixes},
    error::{Error, Result},
    scoreboard::MAX_WORKERS,
};

/// Where it listens if nobody says.
const USUAL_ADDRESS: &str = "127.0.0.1:8080";

impl Serve {
    /// The settings, checked in every way that does not touch the machine. `demo` are the demo
    /// upstreams, if they run.
    ///
    /// # Errors
    /// What cannot be, and where in the file it stands if it came from there.
    pub(in crate::cli) fn settings(&self, demo: Option<&[Endpoint]>) -> Result<Settings> {
        if self.demo && demo.is_none() {
            let message = "'demo' cannot be switched on by a reload: restart";
            return Err(self.origin.place(Refusal::new(&["demo"], message)));
        }
        let proxy = self
            .proxy(demo.unwrap_or_default())
            .map_err(|refusal| self.origin.place(refusal))?;
        let cluster = self
            .cluster()
            .map_err(|refusal| self.origin.place(refusal))?;
        let application = serde_json::to_string(&proxy)
            .map_err(|error| Error::failed(format!("cannot pass the configuration on: {error}")))?;
        Ok(Settings {
            cluster,
            application,
            endpoints: proxy.endpoints.iter().map(Endpoint::to_string).collect(),
        })
    }

    /// The settings before anything runs, demo upstreams included.
    ///
    /// # Errors
    /// As [`settings`](Self::settings).
    pub(in crate::cli) fn settings_alone(&self) -> Result<Settings> {
        let stand_in: Option<Endpoint> = "demo:80".parse().ok();
        self.settings(self.demo.then_some(stand_in.as_slice()))
    }

    /// Do requests go to demo upstreams?
    pub(in crate::cli) fn is_demo(&self) -> bool {
        self.demo
    }

    fn proxy(&self, demo: &[Endpoint]) -> Result<ProxyConfig, Refusal> {
        let endpoints = if self.demo {
            demo.to_vec()
        } else {
            let written = self.upstream.iter().enumerate();
            written
                .map(|(i, text)| text.parse().map_err(|e| refused(&["upstream"], i, e)))
                .collect::<Result<_, _>>()?
        };
        if let (Some(file), []) = (&self.origin.file, &endpoints[..]) {
            return Err(Refusal::new(
                &["upstream"],
                format!(
                    "{file}: no upstream: say where requests go \
                     (upstream = \"http://127.0.0.1:3000\"), or try demo = true"
                ),
            ));
        }
        Ok(ProxyConfig {
            timeouts: UpstreamTimeouts {
                connect: self.connect_timeout,
                first_byte: self.first_byte_timeout,
                body_idle: self.body_idle_timeout,
                idle: self.upstream_idle_timeout,
                tunnel_idle: self.tunnel_idle_timeout,
            },
            idle_connections: self.upstream_idle_connections,
            interim_responses: self.interim_responses,
            ..ProxyConfig::new(endpoints)?
        })
    }

    fn cluster(&self) -> Result<ClusterConfig, Refusal> {
        let mode = name(&["mode"], Some(&self.mode))?;
        let policy = name(&["policy"], self.policy.as_ref())?;
        let signal = name(&["load-signal"], self.load_signal.as_ref())?;
        let (arm, load_signal) = dispatch(mode, policy, signal)?;
        let shadow = match &self.shadow[..] {
            "on" => true,
            "off" => false,
            other => {
                let message = format!("'{other}' is neither on nor off");
                return Err(Refusal::new(&["shadow"], message));
            }
        };
        let prefixes = match Prefixes::new(self.remote_prefix_v4, self.remote_prefix_v6) {
            Ok(prefixes) => prefixes,
            Err(error) if self.remote_prefix_v4 > 32 => {
                return Err(refused(&["remote-prefix-v4"], 0, error));
            }
            Err(error) => return Err(refused(&["remote-prefix-v6"], 0, error)),
        };
        let listen_passed = self.listen.is_empty() && listeners_were_passed();
        let usual = [USUAL_ADDRESS.to_owned()];
        let addresses = match &self.listen[..] {
            [] if listen_passed => &[],
            [] => &usual[..],
            given => given,
        };
        let admin = match &self.admin[..] {
            "off" => None,
            text => Some(resolve("admin address", text).map_err(|e| refused(&["admin"], 0, e))?),
        };
        let config = ClusterConfig {
            listen: addresses
                .iter()
                .enumerate()
                .map(|(i, text)| listen(text).map_err(|e| refused(&["listen"], i, e)))
                .collect::<Result<_, _>>()?,
            listen_passed,
            workers: self
                .workers
                .map(|n| {
                    let message = || format!("{n} workers: it takes 1 to {MAX_WORKERS}");
                    u16::try_from(n).map_err(|_| Refusal::new(&["workers"], message()))
                })
                .transpose()?,
            max_workers: self
                .max_workers
                .map(|n| {
                    let message = || format!("max-workers {n}: at most {MAX_WORKERS} are possible");
                    u16::try_from(n).map_err(|_| Refusal::new(&["max-workers"], message()))
                })
                .transpose()?,
            arm,
            prefixes,
            load_signal,
            shadow,
            pins: Pins {
                groups: each(&["worker-group"], &self.worker_group)?,
                rules: each(&["pin"], &self.pin)?,
            },
            master_serves: self.master_serves,
            pin_cpus: self.pin_cpus,
            admin,
            drain_timeout: self.drain_timeout,
            timeouts: ConnectionTimeouts {
                idle: self.idle_timeout,
                head: self.head_timeout,
                stall: self.stall_timeout,
            },
            hang: HangLimits {
                after: self.hang_after,
                kill: self.hang_kill,
            },
            backoff_limit: self.backoff_limit,
            // A proxy that does not come back is of no use: only the library can ask for that.
            restart_children: true,
            control: match &self.control {
                None => ControlSocket::Usual,
                Some(path) if path == Path::new("off") => ControlSocket::Off,
                Some(path) => ControlSocket::At(path.clone()),
            },
            user: self.user.clone(),
            group: self.group.clone(),
            nofile: self.nofile,
            bus: self.bus()?,
        };
        config.check()?;
        Ok(config)
    }

    fn bus(&self) -> Result<BusConfig, Refusal> {
        Ok(BusConfig {
            node: self.node.clone(),
            queue: self.bus_queue,
            overflow: name(&["bus-overflow"], Some(&self.bus_overflow))?.unwrap_or_default(),
            nats: self.nats()?,
        })
    }

    /// How it meets other masters.
    fn nats(&self) -> Result<Option<BusOptions>, Refusal> {
        let files = [
            (&["bus-password-file"], &self.bus_password_file),
            (&["bus-token-file"], &self.bus_token_file),
            (&["bus-nkey-file"], &self.bus_nkey_file),
            (&["bus-credentials"], &self.bus_credentials),
            (&["bus-ca"], &self.bus_ca),
            (&["bus-cert"], &self.bus_cert),
            (&["bus-key"], &self.bus_key),
            (&["bus-secret-file"], &self.bus_secret_file),
        ];
        if self.bus.is_empty() {
            let mut idle = files.into_iter().filter(|(_, file)| file.is_some());
            let setting = match (&self.bus_user, idle.next()) {
                (Some(_), _) => &["bus-user"],
                (None, Some((setting, _))) => setting,
                (None, None) => return Ok(None),
            };
            let message = format!(
                "{} without bus: say on which servers to meet (bus = \"nats://127.0.0.1:4222\")",
                setting[0]
            );
            return Err(Refusal::new(setting, message));
        }
        Ok(Some(BusOptions {
            servers: self.bus.clone(),
            prefix: self.bus_prefix.clone(),
            user: self.bus_user.clone(),
            password_file: self.bus_password_file.clone(),
            token_file: self.bus_token_file.clone(),
            nkey_file: self.bus_nkey_file.clone(),
            credentials: self.bus_credentials.clone(),
            ca: self.bus_ca.clone(),
            cert: self.bus_cert.clone(),
            key: self.bus_key.clone(),
            secret_file: self.bus_secret_file.clone(),
            beat: self.bus_beat,
            expiry: self.bus_expiry,
        }))
    }
}

/// Has whoever started this process passed it listeners, as sd_listen_fds(3) has it?
fn listeners_were_passed() -> bool {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    number("LISTEN_PID") == Some(std::process::id()) && number("LISTEN_FDS") > Some(0)
}

fn refused(settings: &'static [&'static str], index: usize, error: impl Display) -> Refusal {
    Refusal::of(settings, index, error.to_string())
}

/// Reads each value of a setting that takes several.
fn each<T>(settings: &'static [&'static str], values: &[String]) -> Result<Vec<T>, Refusal>
where
    T: std::str::FromStr,
    T::Err: Display,
{
    let values = values.iter().enumerate();
    let read = |(i, text): (usize, &String)| text.parse().map_err(|e| refused(settings, i, e));
    values.map(read).collect()
}

/// Reads a name from a fixed list, if one was given.
fn name<T>(settings: &'static [&'static str], text: Option<&String>) -> Result<Option<T>, Refusal>
where
    T: std::str::FromStr,
    T::Err: Display,
{
    text.map(|text| text.parse().map_err(|error| refused(settings, 0, error)))
        .transpose()
}
