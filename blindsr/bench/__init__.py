"""Many runs as one: data sets x methods x scales x degradations x seeds, and the paper's tables and figures."""
