//! Large, slow and broken bodies; time-outs.
