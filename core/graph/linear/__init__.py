"""What the replay engine needs to know of a model: its frozen linear map, without the model."""
