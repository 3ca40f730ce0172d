//! The rules a playlist keeps, and how requests are answered.
