//! Every mode and policy: who gets which connection.
