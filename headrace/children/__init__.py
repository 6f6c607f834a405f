"""Child processes: started, watched, restarted and stopped. They end when their parent does.

`child` is one process, `keeper` keeps one running, and `launch` is the script that runs programs which are
not ours.
"""
