"""The course of a training, shown live by TensorBoard or MLflow: callbacks of `fit`, imported on use."""
