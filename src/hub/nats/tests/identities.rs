//! Who is let in by the server, and who is not.

use super::{Master, NatsServer, plain, run};
use crate::config::BusOptions;

/// One of each comes in; one of each does not, as the server says.
async fn admits(server: &NatsServer, first: u64, right: BusOptions, wrong: BusOptions) {
    let mut a = Master::new(first, right.clone()).await;
    a.until("it is let in", |n| n.connected() == 1).await;
    let refused = |said: &str| {
        let hints = [
            "authentication error",
            "TLS handshake error",
            "Client parser ERROR",
        ];
        hints
            .iter()
            .map(|hint| said.matches(hint).count())
            .sum::<usize>()
    };
    let before = refused(&server.said());
    let mut b = Master::new(first + 1, wrong).await;
    b.until("it is refused", |_| refused(&server.said()) > before)
        .await;
    assert_eq!(b.counters.connected(), 0);
    let mut c = Master::new(first + 2, right).await;
    c.until("they meet", |n| n.masters() >= 1).await;
    assert_eq!(b.counters.connected(), 0);
}

#[test]
fn a_user_with_his_password_is_let_in() {
    run(async {
        let server = NatsServer::prepare();
        server.configure("authorization { user: me, password: right }");
        let server = server.begin();
        let with = |text| plain(&server).password_file("me", server.secret(text, text));
        admits(&server, 1, with("right"), with("wrong")).await;
    });
}

#[test]
fn a_token_is_let_in() {
    run(async {
        let server = NatsServer::prepare();
        server.configure("authorization { token: right }");
        let server = server.begin();
        let with = |text| plain(&server).token_file(server.secret(text, text));
        admits(&server, 1, with("right"), with("wrong")).await;
    });
}

#[test]
fn an_nkey_is_let_in() {
    run(async {
        let server = NatsServer::prepare();
        let [right, wrong] = [0, 1].map(|_| nkeys::KeyPair::new_user());
        server.configure(&format!(
            "authorization {{ users: [ {{ nkey: {} }} ] }}",
            right.public_key()
        ));
        let server = server.begin();
        let with = |name: &str, pair: &nkeys::KeyPair| {
            plain(&server).nkey_file(server.secret(name, &pair.seed().expect("a seed")))
        };
        admits(&server, 1, with("right", &right), with("wrong", &wrong)).await;
    });
}

#[test]
fn servers_must_be_signed_for_and_clients_too() {
    run(async {
        let server = NatsServer::prepare();
        let folder = server.certificates().to_owned();
        let tls = |name: &str| folder.join(name);
        server.configure(&format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
            tls("server.pem"),
            tls("server.key"),
            tls("ca.pem"),
        ));
        let server = server.begin();
        let known = BusOptions::nats(server.url("tls")).ca(tls("ca.pem"));
        let right = known
            .clone()
            .certificate(tls("client.pem"), tls("client.key"));
        admits(&server, 1, right.clone(), known).await;
        let stranger = BusOptions {
            ca: Some(tls("client.pem")),
            ..right.clone()
        };
        admits(&server, 4, right, stranger).await;
    });
}

/// What `issuer` says of `subject`, signed; NATS's own kind of JWT.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, nats: serde_json::Value) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let claims = serde_json::json!({
        "jti": subject.public_key(),
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": "test",
        "nats": nats,
    });
    let header = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let said = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let signature = issuer.sign(said.as_bytes()).expect("it has its seed");
    format!("{said}.{}", encode(&signature))
}

#[test]
fn credentials_are_let_in() {
    run(async {
        let server = NatsServer::prepare();
        let (operator, account) = (
            nkeys::KeyPair::new_operator(),
            nkeys::KeyPair::new_account(),
        );
        let stranger = nkeys::KeyPair::new_account();
        let everything = serde_json::json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
            "wildcards": true, "conn": -1, "leaf": -1,
        });
        let of_operator = serde_json::json!({ "type": "operator", "version": 2 });
        let of_account =
            serde_json::json!({ "type": "account", "version": 2, "limits": everything });
        server.configure(&format!(
            "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}",
            jwt(&operator, &operator, of_operator),
            account.public_key(),
            jwt(&operator, &account, of_account),
        ));
        let server = server.begin();
        let with = |name: &str, issuer: &nkeys::KeyPair| {
            let user = nkeys::KeyPair::new_user();
            let claims = serde_json::json!({
                "type": "user", "version": 2, "pub": {}, "sub": {},
                "subs": -1, "data": -1, "payload": -1,
            });
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
                jwt(issuer, &user, claims),
                user.seed().expect("a seed"),
            );
            plain(&server).credentials(server.secret(name, &text))
        };
        admits(
            &server,
            1,
            with("right", &account),
            with("wrong", &stranger),
        )
        .await;
    });
}
