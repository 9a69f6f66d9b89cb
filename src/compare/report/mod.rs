//! A comparison to look at: a table for terminals, raw rows for other programs, a page for browsers. All of
//! them say what the [`Report`](super::Report) says and nothing that is not in it. JSON is the `Report` itself.

mod csv;
mod figures;
mod html;
mod table;

pub use self::{csv::csv, html::html, table::table};
