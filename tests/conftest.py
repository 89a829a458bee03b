"""Settings that every test needs before JAX starts its backend."""

import os
import tempfile

# The tests describe the CPU form of the program, on eight virtual devices so that meshes are real.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Programs repeat between tests and between runs: compile each once.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'experts-test-cache')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import jax

jax.config.update('jax_num_cpu_devices', 8)
