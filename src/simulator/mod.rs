//! A faithful fake Azure OpenAI; imports net only.
