"""A Triton backend named "cpu" that compiles nothing.

vLLM's Model Runner V2, which returns routed experts, needs Triton with a backend of this name. PyPI's Triton has none.
With TRITON_INTERPRET=1 and TRITON_DEFAULT_BACKEND=cpu Triton runs kernels in its own interpreter: it asks the driver
for the device and never calls the compiler. Triton finds `driver` and `compiler` by the entry point in the dist-info
beside this package, so putting the directory of both on PYTHONPATH is all the installation there is.
"""
