//! What the upstream and the client get to see.
