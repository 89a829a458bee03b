"""Packaging; `constraints.txt` holds the versions that the tests ran with."""

import setuptools

# Lower bounds: the oldest interfaces that the code uses. Upper bounds: the next release that may break them.
# JAX 0.11 and later need Python 3.12; on 3.11 pip takes 0.10.
_DEPENDENCIES = [
  'absl-py>=2.1,<3',
  'array_record>=0.8.1,<0.9; platform_system!="Windows"',
  'clu>=0.0.12,<0.1',
  'flax>=0.12,<0.14',
  'grain>=0.2.14,<0.4',
  # TFDS reads its checksums with it, and does not ask for it.
  'importlib_resources>=6,<8',
  'jax>=0.10,<0.13',
  'matplotlib>=3.9,<4',
  'ml-collections>=1.0,<2',
  'numpy>=2.0,<3',
  'opencv-python-headless>=4.12,<6',
  'optax>=0.2.5,<0.4',
  'orbax-checkpoint>=0.11.30,<0.13',
  'pandas>=2.2,<4',
  # 11.3 reads AVIF.
  'pillow>=11.3,<14',
  'pyyaml>=6,<7',
  'safetensors>=0.5,<1',
  'scikit-learn>=1.5,<2',
  'scipy>=1.15,<2',
  'tabulate>=0.9,<0.11',
  # clu's event writer needs both; TensorFlow no longer brings TensorBoard.
  'tensorboard>=2.19,<3',
  'tensorflow-cpu>=2.19,<3; platform_system=="Linux" and platform_machine=="x86_64"',
  'tensorflow>=2.19,<3; platform_system!="Linux" or platform_machine!="x86_64"',
  'tensorflow-datasets>=4.9.9,<5',
  'threadpoolctl>=3.5,<4',
  'tqdm>=4.66,<5',
]

setuptools.setup(
  name='experts',
  version='0.1.0',
  description='Transfer learning with expert models: train, select, fine-tune, report',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['experts', 'experts.*']),
  package_data={'experts.reporting': ['page.html'], 'experts.selection.pool': ['shipped/*.json']},
  install_requires=_DEPENDENCIES,
  extras_require={
    # What the benchmarks are measured against.
    'bench': ['faiss-cpu>=1.9,<2', 'timm>=1.0,<2', 'torch>=2.5,<3'],
    'gpu': ['jax[cuda12]'],
    # Photographs as iPhones keep them.
    'heic': ['pillow-heif>=1.0,<2'],
    # Networks by their name there.
    'hub': ['huggingface_hub>=1.0,<3'],
    'litert': [
      'ai-edge-litert>=2.1,<3; platform_system=="Linux" and platform_machine=="x86_64"',
    ],
    'onnx': ['onnx>=1.18,<2', 'onnxruntime>=1.20,<2'],
    # TensorBoard's profile tab.
    'profile': ['xprof>=2.20,<3'],
    'test': [
      # Runs published models in the tests of pools.
      'ai-edge-litert>=2.1,<3; platform_system=="Linux" and platform_machine=="x86_64"',
      'huggingface_hub>=1.0,<3',
      'hypothesis>=6.100,<7',
      'import-linter>=2.5,<3',
      # Carries the schemas of Kubernetes and JobSet.
      'kubeflow-trainer-api>=2.1,<3',
      # Compiles for TPUs, without one.
      'libtpu>=0.0.30,<0.1; platform_system=="Linux" and platform_machine=="x86_64"',
      'onnx>=1.18,<2',
      'onnxruntime>=1.20,<2',
      'packaging>=24,<27',
      'pillow-heif>=1.0,<2',
      'pydantic>=2.10,<3',
      'pytest>=8,<10',
      'pytest-timeout>=2.3,<3',
      'pytest-xdist>=3.6,<4',
      'ruff>=0.12,<0.18',
      'timm>=1.0,<2',
      'torch>=2.13,<2.14',
      'torchax>=0.0.13,<0.0.14',
    ],
    # Networks of torch that have no module of their own here; torchax has tables of one torch's operators. It also reads
    # torch's own files, and checks what leaves for timm.
    'torch': ['timm>=1.0,<2', 'torch>=2.13,<2.14', 'torchax>=0.0.13,<0.0.14'],
    'tpu': ['jax[tpu]'],
  },
)
