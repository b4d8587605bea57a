"""A recipe whose two stages train in seconds, on images of 32 x 32."""

TINY = {
    "train_batch_size": 8,
    "optimizer": {"type": "SGD", "params": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
    "steps_per_print": 10**9,
    "facelt": {
        "image_size": 32,
        "embedding_size": 16,
        "backbone": {"name": "resnet10", "width": 8},
        "plain": {"epochs": 4, "decay_every": 3},
        "meta": {"epochs": 2, "decay_every": 1, "images_per_class": 2},
        "log_every": 1,
        "loader_threads": 1,
    },
}
