//! Whoever comes from Node finds, on a page of `docs/`, everything that four projects had and what stands
//! in its place here. Its lines of code are in this file, where a compiler reads them; the tests see to it that
//! page and file agree and that nothing was left out.

#![allow(dead_code, reason = "the compiler is to read it, and nobody to run it")]

use std::{
    collections::BTreeSet,
    error::Error,
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use pointsman::{
    BusOptions, Cluster, Conn, Master, Mode, Worker,
    bus::{
        Attachment, Balance, Bus, BusError, Departure, Framed, Message, Peer, Presence,
        PresenceEvents, ProcessId, Subscription, To,
    },
};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../docs/coming-from-node.md");
const SOURCE: &str = include_str!("coming_from_node.rs");
const SECOND: Duration = Duration::from_secs(1);

type Done = Result<(), Box<dyn Error>>;

/// multi-node: starting.
fn multi_node(cluster: Cluster) -> Cluster {
    if cluster.is_master() {
        println!("this is the process that was started");
    }
    cluster
        .port(8080)
        .host("::")
        .nodes(4)
        .master_listen(true)
        .restart_children(false)
        .mode(Mode::Shared)
        .drain_timeout(Duration::from_secs(10))
        .on_ready(|ready| println!("listening on {}", ready.listen[0]))
}

fn multi_node_listen() -> pointsman::Result<()> {
    let app = axum::Router::new();
    Cluster::new().port(8080).nodes(4).serve(|_| async { app })
}

fn multi_node_raw() -> pointsman::Result<()> {
    Cluster::new().port(8080).serve_connections(echo)
}

async fn echo(conn: Conn) -> std::io::Result<u64> {
    let (mut reader, mut writer) = tokio::io::split(conn);
    tokio::io::copy(&mut reader, &mut writer).await
}

/// multi-node: talking.
async fn multi_node_talk(worker: Worker, bus: Bus, peer: Peer, message: Message) -> Done {
    let seat = worker.id();
    let generation = worker.generation();
    let is_worker = pointsman::is_worker();
    println!("{seat} {generation} {is_worker}");
    let mut comings = bus.presence().await?;
    while let Some(event) = comings.next().await {
        println!("{event:?}");
    }
    let stream = bus.open_stream(peer.id, "mesh", "", SECOND).await?;
    let other_end = message.accept_stream()?;
    bus.send(To::Siblings, "note", "to all other workers")?;
    let mut framed = Framed::multi_node(stream);
    framed.send(&json!({"foo": "bar"})).await?;
    let value = framed.next::<Value>().await;
    let with_lengths = Framed::length_prefixed(other_end);
    println!("{value:?} {with_lengths:?}");
    Ok(())
}

/// ipevents: options and processes.
fn ipevents(cluster: Cluster) -> Cluster {
    cluster
        .restart_children(true)
        .backoff_limit(Duration::from_secs(1))
        .workers(4)
        .control(Some("/run/app/control".into()))
        .bus(BusOptions::nats("nats://127.0.0.1:4222"))
        .on_worker_stop(|worker, why| println!("{worker:?}: {why:?}"))
}

fn ipevents_fork(bus: &Bus) -> Done {
    let mut command = Command::new("other-cluster");
    bus.branch(&mut command)?;
    let child = command.spawn()?;
    println!("{child:?}");
    Ok(())
}

/// ipevents: attributes.
async fn ipevents_who(bus: Bus, cluster: Cluster) -> Done {
    let me = bus.id().await?;
    let parent = bus.parent().await?;
    let top = bus.is_grand_master().await?;
    let peers = bus.peers().await?;
    let children = peers.iter().filter(|p| p.parent == Some(me)).count();
    let is_master = cluster.is_master();
    let is_worker = pointsman::is_worker();
    println!("{parent:?} {top} {children} {is_master} {is_worker}");
    for peer in &peers {
        println!(
            "{} {:?} {:?} {}",
            peer.id, peer.parent, peer.role, peer.node
        );
    }
    Ok(())
}

/// ipevents: sending.
async fn ipevents_send(bus: Bus, other: ProcessId, hop: ProcessId, message: Message) -> Done {
    bus.bubble("disk.full", "sda1")?;
    bus.send(To::Ancestors, "disk.full", "sda1")?;
    bus.send(To::Parent, "disk.full", "sda1")?;
    bus.send(To::Children, "config", "new")?;
    bus.send(To::Siblings, "cache.drop", "user.7")?;
    bus.send(To::GrandMaster, "stats", "{}")?;
    bus.send(To::Worker(2), "job", "17")?;
    bus.send(other, "job", "17")?;
    bus.send(To::Processes(vec![hop, other]), "job", "17")?;
    bus.send(To::Route(vec![hop, other]), "job", "17")?;
    bus.broadcast("cache.drop", "everything")?;
    bus.publish("cache.drop", "everything")?;
    message.reply("done")?;
    bus.send(message.from(), "job.done", "17")?;
    Ok(())
}

/// ipevents: hearing.
async fn ipevents_hear(bus: Bus) -> Done {
    let mut jobs = bus.subscribe("job").await?;
    let mut rooms = bus.subscribe("room.*.said").await?;
    let mut all = bus.subscribe("room.>").await?;
    while let Some(Ok(message)) = jobs.next().await {
        let (from, path) = (message.from(), message.path());
        let (topic, to) = (message.topic(), message.to());
        let arguments: Vec<Value> = message.decode()?;
        println!("{from} {path:?} {topic} {to:?} {arguments:?}");
    }
    drop(jobs);
    println!("{:?} {:?}", rooms.next().await, all.next().await);
    Ok(())
}

async fn ipevents_presence(mut events: PresenceEvents) {
    while let Some(event) = events.next().await {
        match event {
            Presence::Online(peer) => println!("{} is there", peer.id),
            Presence::Ready(peer) => println!("{} takes connections", peer.id),
            Presence::Offline { peer, reason } => match reason {
                Departure::Exit(code) => println!("{}: exit code {code}", peer.id),
                Departure::Signal(signal) => println!("{}: signal {signal}", peer.id),
                other => println!("{}: {other:?}", peer.id),
            },
            _ => {}
        }
    }
}

async fn ipevents_errors(bus: Bus, gone: ProcessId) {
    match bus.request(gone, "job", "17", SECOND).await {
        Err(BusError::Failed(failure, text)) => println!("{failure}: {text}"),
        Err(other) => println!("{other}"),
        Ok(answer) => println!("{:?}", answer.bytes()),
    }
}

/// MultiNodes: a node, and whom it knows.
async fn multi_nodes(bus: Bus) -> Done {
    let name = bus.id().await?;
    let peers = bus.peers().await?;
    let me = peers.iter().find(|p| p.id == name);
    let applications = me.map(|p| &p.applications);
    println!("{applications:?}");
    let found = bus.hosts("crawler", |it| it["speed"] == "fast").await?;
    println!("{found:?}");
    Ok(())
}

/// MultiNodes: an application, and calling it.
async fn multi_nodes_application(bus: Bus, other: ProcessId) -> Done {
    let mut crawler = bus.host("crawler", json!({"speed": "fast"})).await?;
    while let Some(Ok(message)) = crawler.next().await {
        match message.action() {
            "" => println!("told: {:?}", message.payload()),
            "fetch" => message.reply("fetched")?,
            other => message.refuse(&format!("there is no {other}"))?,
        }
    }
    bus.tell("crawler", "http://a.example/")?;
    let answer = bus
        .call("crawler", "fetch", "http://a.example/", SECOND)
        .await?;
    let answer: Value = answer.decode()?;
    let turn = Balance::RoundRobin;
    let in_turn = bus.call_with(turn, "crawler", "fetch", "", SECOND).await?;
    bus.send(other, "message", "to this one")?;
    drop(crawler);
    println!("{answer} {in_turn:?}");
    Ok(())
}

/// MultiNodes: functions.
async fn multi_nodes_functions(bus: Bus, other: ProcessId) -> Done {
    let offered = bus
        .offer(
            "add",
            |(a, b): (i64, i64)| async move { Ok::<_, String>(a + b) },
        )
        .await?;
    let sum: i64 = bus.run_in_node(other, "add", &(1, 2), SECOND).await?;
    println!("{offered:?} {sum}");
    Ok(())
}

/// child_process: messages.
async fn child_process(bus: Bus, special: ProcessId, mut messages: Subscription) -> Done {
    bus.send(special, "message", "hello")?;
    if let Err(BusError::Full) = bus.send(special, "message", "hello") {
        bus.flush().await?;
    }
    let answer = bus.request(special, "message", "hello", SECOND).await?;
    while let Some(Ok(message)) = messages.next().await {
        println!("{:?}", message.take_attachment());
    }
    println!("{answer:?}");
    Ok(())
}

/// child_process: sockets.
async fn child_process_handles(worker: Worker, special: ProcessId, conn: Conn) -> Done {
    let bus = worker.bus();
    worker.send_connection(special, conn, "socket").await?;
    let listener = TcpListener::bind("127.0.0.1:1337")?;
    worker.send_listener(special, &listener, "server").await?;
    let mut servers = worker.received_listeners().await?;
    while let Some(received) = servers.next().await {
        println!("{received:?}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    bus.send_attached(special, "datagrams", "", Attachment::datagram(socket))?;
    Ok(())
}

/// child_process: the parent's side.
async fn child_process_parent(master: Master, special: ProcessId, stream: TcpStream) -> Done {
    master.send_connection(special, stream, "socket").await?;
    Ok(())
}

/// child_process: the special ones.
fn child_process_special(cluster: Cluster) -> Cluster {
    cluster
        .worker_group("special", 1)
        .pin("74.125.127.100/32", "special")
        .on_master(|master| drop(master.bus()))
}

/// Without blanks, without the comma that a line break brings, and without the backslash that keeps a table
/// from seeing the end of a cell.
fn bare(code: &str) -> String {
    let text: String = code.split_whitespace().collect();
    text.replace(",)", ")").replace("\\|", "|")
}

/// The cells of each row of the tables, and the line that it is in.
fn rows() -> impl Iterator<Item = (usize, Vec<&'static str>)> {
    PAGE.lines().enumerate().filter_map(|(number, line)| {
        let cells = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let is_rule = cells.chars().all(|c| matches!(c, '-' | '|' | ':' | ' '));
        (!is_rule).then(|| (number + 1, cells.split(" | ").map(str::trim).collect()))
    })
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_line_of_code_on_the_page_compiles() {
    let source = bare(SOURCE);
    let mut lines = 0;
    for (number, cells) in rows() {
        // Name, what stands in its place, and a line of it.
        let [_, _, code] = cells[..] else { continue };
        for line in quoted(code) {
            lines += 1;
            assert!(
                source.contains(&bare(line)),
                "line {number} of the page: {line} is not in this file"
            );
        }
    }
    for block in PAGE.split("```rust\n").skip(1) {
        let (block, _) = block.split_once("```").expect("it ends");
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            lines += 1;
            assert!(source.contains(&bare(line)), "{line} is not in this file");
        }
    }
    assert!(lines > 80, "{lines}: is the page read as it is written?");
}

#[test]
fn every_name_of_the_four_projects_is_on_the_page() {
    let named: BTreeSet<&str> = rows().flat_map(|(_, cells)| quoted(cells[0])).collect();
    let missing: Vec<&str> = NAMES
        .iter()
        .flat_map(|names| names.split(' '))
        .filter(|name| !named.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_row_says_something() {
    for (number, cells) in rows() {
        assert!(
            cells.iter().all(|cell| !cell.is_empty()),
            "line {number}: {cells:?}"
        );
    }
}

/// All that they had: options, attributes, methods, events and parts of messages.
const NAMES: [&str; 4] = [
    // multi-node 0.2.3
    "listen(options,server) port host nodes masterListen restartChildren isMaster id \"node\" write(data) \
     \"data\" frameStream(stream) send(value) \"message\" frameStreamLengthEncoded(stream) \
     ignoreReloadMessages _CHILD_ID_ SIGHUP SIGINT SIGTERM SIGQUIT",
    // ipevents 0.1.2
    "restart delayRestart useSocket socket.socketPath socket.port socket.host socket.reconnect \
     socket.delayReconnect socket.onlyConnect pid parentPid childsOnline isGrandMaster isMaster isWorker from \
     pids bubble(event,…) sendToParents(event,…) sendToChilds(event,…) sendToSiblings(event,…) \
     sendToGrandMaster(event,…) sendToChild(pid,event,…) sendTo(route,event,…) broadcast(event,…) \
     fork(path,args) worker() options(options) start() printNetmap() ready online offline error parent \
     newListener this.from this.pids to route type event args toParents toChilds toSiblings toChild toGM \
     on(event,listener) once(event,listener) removeListener(event,listener) emit(event,…) * **",
    // MultiNodes 0.0.2
    "createNode() createNode(name) createNode(port,host) start(fn) stop() connect(port,host,fn) connect(node) \
     registerApplication(name,object,description) process(msg) processInNode(name,msg) \
     tellToApplication(name,msg) callApplication(name,action,args) getApplicationNodes(name,filter) \
     getDescription() registerNode(node) unregisterNode(node) runInNode(fn,args) runInNode(name,fn,args) \
     runInApplication(app,fn,args) runInApplication(name,app,fn,args) name remote end() nodes applications \
     description",
    // child_process
    "fork(module) send(message) send(message,server) send(message,socket) send(message,dgram) keepOpen \
     callback false process.send(message) \"message\" \"internalMessage\" disconnect() \"disconnect\" connected \
     \"exit\" server.connections server.getConnections(fn) server.close(fn) server.maxConnections NODE_… \
     remoteAddress",
];
