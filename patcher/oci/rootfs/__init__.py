"""Which vLLM runs in an image, and what its files hold. From a layer to the answer:

`layers` has each layer's tar (`tarball`) read once for the names that matter (`scan`); `filesystem`
puts them on top of each other, as a `tree`. `start` says what a container starts, `python` what an
interpreter imports, `installed` what a vLLM says of itself. `copies` finds every vLLM and who
imports it; `running` hands out the one that runs. `located` is that answer as a lock keeps it, with
the `point` in a layer from which a file is read again.
"""
