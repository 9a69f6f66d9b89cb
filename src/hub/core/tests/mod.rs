//! The core against a model.
