//! Starting, being told nonsense, stopping, the admin interface.

use crate::harness::{Demo, Pointsman, get};

#[test]
fn it_serves_through_a_worker() {
    let demo = Demo::start("one");
    let proxy = Pointsman::start(&[&demo.url()], &["--workers", "2"]);
    assert_eq!(get(proxy.address(), "/").text(), "hello from one\n");
    assert_eq!(proxy.admin("/readyz").status, 200);
}
