module guests

go 1.27
