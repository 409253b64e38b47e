//! What we know of the OpenAI and Azure OpenAI API. PURE.
