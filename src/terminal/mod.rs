//! The live view in the terminal; reads status documents only.
