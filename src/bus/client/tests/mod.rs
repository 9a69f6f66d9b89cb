//! Tests of a process's end against a hub.
