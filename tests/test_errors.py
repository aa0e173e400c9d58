"""Messages in one line: of other libraries, and of long values."""

import numpy as np
import pytest
import tensorflow as tf

from pixel_snail.errors import UserError, check_option, first_line

NODE = "{{function_node __wrapped__%s_device_/job:localhost/replica:0/task:0/device:CPU:0}} "
TRACE = """Graph execution error:

Detected at node %s defined at (most recent call last):
  File "/a/program.py", line 32, in <module>

  File "/a/program.py", line 31, in step

"""
MESSAGES = [
    (
        NODE % "SaveV2_dtypes_1" + "/a/b.ckpt.data-00000-of-00001.tempstate13137; No space left on device [Op:SaveV2]",
        "/a/b.ckpt.data-00000-of-00001; No space left on device",
    ),
    (
        NODE % "SaveV2_dtypes_1" + "/a/b.ckpt.index.tempstate5600607379181822378; Is a directory [Op:SaveV2]",
        "/a/b.ckpt.index; Is a directory",
    ),
    (
        NODE % "WriteSummary" + "/a/events.v2; No space left on device\n\tFailed to flush 11 events [Op:WriteSummary]",
        "/a/events.v2; No space left on device",
    ),
    (
        NODE % "CreateSummaryFileWriter" + "/a; No such file or directory [Op:CreateSummaryFileWriter] name: ",
        "/a; No such file or directory",
    ),
    (
        NODE % "Fill" + "OOM when allocating tensor with shape[1099511627776] and type float on "
        "/job:localhost/replica:0/task:0/device:CPU:0 by allocator mklcpu [Op:Fill] name: ",
        "OOM when allocating tensor with shape[1099511627776] and type float on CPU:0 by allocator mklcpu",
    ),
    (
        TRACE % "CheckNumerics" + "bad : Tensor had NaN values\n\t [[{{node CheckNumerics}}]] [Op:__inference_g_4286]",
        "bad : Tensor had NaN values",
    ),
    (
        "Graph execution error:\n\nDetected at node a defined at (most recent call last):\n<stack traces unavailable>\n"
        "2 root error(s) found.\n  (0) NOT_FOUND:  /a; No such file\n\t [[{{node ReadFile}}]]\n [Op:__inference_g_42]",
        "(0) NOT_FOUND:  /a; No such file",
    ),
    ("{{function_node f}}{{function_node g}} a reason", "a reason"),
    (
        "Unable to open table file /a: DATA_LOSS: not an sstable",
        "Unable to open table file /a: DATA_LOSS: not an sstable",
    ),
    ("  a {set} of [things]\nmore", "a {set} of [things]"),
    ("", "UnknownError"),
]


@pytest.mark.parametrize("message, reason", MESSAGES)
def test_only_the_reason_of_tensorflows_message_is_told(message, reason):
    """TensorFlow 2.21 gave all but the last four of these messages."""
    assert first_line(tf.errors.UnknownError(None, None, message)) == reason


def test_tensorflow_decorates_messages_as_this_test_says(tmp_path):
    with pytest.raises(tf.errors.OpError) as error:
        tf.io.read_file(str(tmp_path / "none"))
    assert error.value.message.startswith(NODE % "ReadFile")
    assert first_line(error.value) == f"{tmp_path}/none; No such file or directory"
    with pytest.raises(tf.errors.OpError) as error:
        tf.function(lambda: tf.io.read_file(str(tmp_path / "none")))()
    assert "{{node ReadFile}}" in error.value.message
    assert first_line(error.value) == f"{tmp_path}/none; No such file or directory"


def test_a_message_has_only_the_beginning_of_a_long_value():
    with pytest.raises(UserError, match=r"^number=array\(\[\[0., 0.*\.\.\. is not a whole number$") as caught:
        check_option("number", np.zeros([28, 28]), False, "a whole number")
    assert len(str(caught.value)) < 120
